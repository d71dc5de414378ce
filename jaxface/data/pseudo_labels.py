"""Pseudo-labels: landmarks predicted for an unlabelled data set, as a TFDS data set that is read together with it."""

import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

SPLIT = "train"


class PseudoLabels(tfds.core.GeneratorBasedBuilder):
    """Pseudo-labels: example i belongs to record i of the split that was labelled."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, labels: dict[str, np.ndarray], **options: object):
        self._labels = labels
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            name: tfds.features.Tensor(shape=values.shape[1:], dtype=values.dtype)
            for name, values in self._labels.items()
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        return {SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        for i in range(len(next(iter(self._labels.values())))):
            yield i, {name: values[i] for name, values in self._labels.items()}


def dataset_name(source: str) -> str:
    """The name of the data set of pseudo-labels of the data set `source`."""
    return f"pseudo_labels/{source.replace('/', '_')}"


def write(source: str, data_dir: str | pathlib.Path, labels: dict[str, np.ndarray]) -> None:
    """Writes pseudo-labels to `data_dir`, atomically: an interrupted call leaves none.

    Args:
        source: the data set that was labelled.
        data_dir: folder of prepared data sets.
        labels: arrays (E,…) in the order of the records of `source`.
    """
    config = tfds.core.BuilderConfig(name=dataset_name(source).partition("/")[2])
    PseudoLabels(labels, data_dir=data_dir, config=config).download_and_prepare()
