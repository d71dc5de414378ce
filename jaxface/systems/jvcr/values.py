"""Ranges and choices of the configuration values of this system (configs/jvcr.py)."""

from jaxface import config_values as values
from jaxface.systems.jvcr.losses import DISTANCES
from jaxface.systems.jvcr.model import POINTS, REGRESSORS
from jaxface.systems.jvcr.transforms import MODES

VALUES = {
    "mode": values.choice(*MODES),
    "model.image_size": values.IMAGE_SIZE,
    "model.batch_norm_group": values.COUNT,
    "model.stacks": values.integer(1, 64),
    "model.depths": values.sequence(values.SIZE, least=1),
    "model.width": values.SIZE,
    "model.levels": values.integer(1, 8),
    "model.blocks": values.integer(1, 64),
    "model.regressor": values.choice(*REGRESSORS),
    "model.channels": values.sequence(values.SIZE),
    "model.embedding": values.SIZE,
    "model.points": values.choice(*POINTS),
    "data.datasets": values.sequence(values.NAME, least=1),
    "data.augment.scale": values.number(0.0, 0.99),
    "data.augment.rotation_deg": values.number(0.0, 180.0),
    "data.augment.rotation_share": values.SHARE,
    "data.augment.shift": values.SHARE,
    "data.augment.color": values.SHARE,
    "data.augment.degrade": values.FLAG,
    "loss.pretrain": values.COUNT,
    "loss.pretrain_epochs": values.WEIGHT,
    "loss.distance": values.choice(*DISTANCES),
    "loss.voxel": values.WEIGHT,
    "loss.attention": values.WEIGHT,
    "loss.both_volumes": values.FLAG,
}
