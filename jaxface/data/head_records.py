"""The record of a scanned or generated head, the same for all data sets that train neural head models.

Positions are in units of `jaxface.heads.head_space`; the number of points n differs from record to record. Splits
`train` and `test` hold surfaces of neutral scans, `train_expressions` and `test_expressions` pairs of corresponding
points; features that a record does not have are empty. `subject` numbers the people within a split, `expression` the
scans of one person, and `scan` all scans of the split, which is the row of the scan's latent code.
"""

import numpy as np
import tensorflow_datasets as tfds

POINTS = ("face_points", "face_normals", "nonface_points", "nonface_normals", "neutral", "posed")
NUMBERS = ("subject", "expression", "scan")
ANCHORS = 39


def features(**more: tfds.features.FeatureConnector) -> tfds.features.FeaturesDict:
    """POINTS (n,3) and anchors (39,3) float32, NUMBERS int32, and the features `more`."""
    return tfds.features.FeaturesDict(
        {
            **{name: tfds.features.Tensor(shape=(None, 3), dtype=np.float32) for name in POINTS},
            "anchors": tfds.features.Tensor(shape=(ANCHORS, 3), dtype=np.float32),
            **{name: tfds.features.Scalar(dtype=np.int32) for name in NUMBERS},
            **more,
        }
    )


def record(**values: np.ndarray | int) -> dict[str, np.ndarray | int]:
    """A complete record: `values`, the other POINTS empty and the other NUMBERS 0."""
    empty = {name: np.zeros((0, 3), np.float32) for name in POINTS}
    return {**empty, **dict.fromkeys(NUMBERS, 0), **values}


def metadata(anchors: np.ndarray, subjects: dict[str, int], scans: dict[str, int], **more) -> dict:
    """The data set's metadata.

    Args:
        anchors: (39,3) mean anchors, stored as one list.
        subjects: number of people in "train" and "test".
        scans: number of posed scans in "train" and "test".
        more: further entries.
    """
    return {"anchors": np.ravel(anchors).astype(float).round(6).tolist(), "subjects": subjects, "scans": scans, **more}
