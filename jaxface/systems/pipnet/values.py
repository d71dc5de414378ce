"""Ranges and choices of the configuration values of this system (configs/pipnet.py)."""

from jaxface import config_values as values
from jaxface.systems.pipnet.decoding import MERGES
from jaxface.systems.pipnet.losses import ERRORS
from jaxface.systems.pipnet.model import BACKBONES, STRIDES
from jaxface.systems.pipnet.predict import CROPS

VALUES = {
    "model.backbone": values.choice(*BACKBONES),
    "model.depths": values.sequence(values.SIZE),
    "model.width": values.SIZE,
    "model.image_size": values.IMAGE_SIZE,
    "model.batch_norm_group": values.COUNT,
    "model.stride": values.choice(*STRIDES),
    "model.landmarks": values.integer(0, 10_000),  # 0: as many as the mean face has
    "model.neighbors": values.SIZE,
    "model.layout": values.NAME,
    "model.meanface": values.sequence(values.number()),
    "model.merge": values.choice(*MERGES),
    "model.confidence": values.FLAG,
    "model.crop": values.choice(*CROPS),
    "model.mean": values.RGB,
    "model.std": values.RGB_SCALE,
    "data.datasets": values.sequence(values.NAME, least=1),
    "data.unlabelled": values.NAMES,
    "data.pseudo_labels": values.PATH,
    "data.task": values.choice("std", "cls1", "cls2", "cls3"),
    "data.flip": values.sequence(values.COUNT),
    "data.eye_corners": values.sequence(values.COUNT, 0, 2),
    "loss.map": values.choice(*ERRORS),
    "loss.offset": values.choice(*ERRORS),
    "loss.map_weight": values.WEIGHT,
    "loss.offset_weight": values.WEIGHT,
}
