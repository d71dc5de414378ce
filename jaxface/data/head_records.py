"""What a record of a scanned or generated head holds, the same for every data set that neural head models read.

Positions are in units of `jaxface.heads.head_space`, n differs from record to record. Splits `train` and `test` hold
surfaces of neutral scans, `train_expressions` and `test_expressions` pairs of corresponding points; what a record does
not have is empty. `subject` counts people within a split, `expression` the scans of one of them, and `scan` all scans
of the split: the row of its code.
"""

import numpy as np
import tensorflow_datasets as tfds

POINTS = ("face_points", "face_normals", "nonface_points", "nonface_normals", "neutral", "posed")
NUMBERS = ("subject", "expression", "scan")
ANCHORS = 39


def features(**more: tfds.features.FeatureConnector) -> tfds.features.FeaturesDict:
    """POINTS (n,3) and anchors (39,3) float32, NUMBERS int32, and what a data set adds."""
    return tfds.features.FeaturesDict(
        {
            **{name: tfds.features.Tensor(shape=(None, 3), dtype=np.float32) for name in POINTS},
            "anchors": tfds.features.Tensor(shape=(ANCHORS, 3), dtype=np.float32),
            **{name: tfds.features.Scalar(dtype=np.int32) for name in NUMBERS},
            **more,
        }
    )


def record(**values: np.ndarray | int) -> dict[str, np.ndarray | int]:
    """A whole record: the given features, the others empty."""
    empty = {name: np.zeros((0, 3), np.float32) for name in POINTS}
    return {**empty, **dict.fromkeys(NUMBERS, 0), **values}


def metadata(anchors: np.ndarray, subjects: dict[str, int], scans: dict[str, int], **more) -> dict:
    """What `metadata.json` beside the records says: mean `anchors` (39,3) as one list, people and posed scans of the
    splits "train" and "test"."""
    return {"anchors": np.ravel(anchors).astype(float).round(6).tolist(), "subjects": subjects, "scans": scans, **more}
