"""Ranges and choices of the configuration values of this system (configs/deep3d.py)."""

from jaxface import config_values as values
from jaxface.heads import sources
from jaxface.systems.deep3d.face_model import CROPS
from jaxface.systems.deep3d.losses import ATTENTIONS, DISTANCES
from jaxface.systems.deep3d.model import BACKBONES, REGRESSORS

VALUES = {
    "model.image_size": values.IMAGE_SIZE,
    "model.batch_norm_group": values.COUNT,
    "model.backbone": values.choice(*BACKBONES),
    "model.width": values.SIZE,
    "model.regressor": values.choice(*REGRESSORS),
    "model.num_dense_points": values.integer(0, 100_000),
    "model.refine": values.integer(0, 1000),
    "model.identity": values.integer(0, 10_000),
    "model.expression": values.integer(0, 10_000),
    "model.albedo": values.integer(0, 10_000),
    "model.white_light": values.FLAG,
    "model.confidence": values.FLAG,
    "model.metric_size": values.FLAG,
    "head.name": values.choice(*sources.NAMES, sources.RETIRED),
    "head.path": values.PATH,
    "head.crop": values.choice(*CROPS),
    "data.datasets": values.sequence(values.NAME, least=1),
    "data.augment": values.WEIGHT,
    "loss.attention": values.choice(*ATTENTIONS),
    "loss.recognition": values.PATH,
    "loss.distance": values.choice(*DISTANCES),
    "loss.num_rendered": values.COUNT,
    "loss.weights": values.section(values.WEIGHT),
    "loss.coefficient_weights": values.section(values.WEIGHT),
}
