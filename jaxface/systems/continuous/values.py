"""Ranges and choices of the configuration values of this system (configs/continuous.py)."""

from jaxface import config_values as values
from jaxface.heads import canonical, sources
from jaxface.systems.continuous.model import POOLS, TRANSFORMERS

HEADS = (*sources.NAMES, sources.RETIRED)
# Regions whose points can be labelled: all that are surfaces of the head itself, and the points inside it.
REGIONS = (
    "face", "lips", "lids", "nose", "brows_L", "brows_R", "ears", "neck", "scalp", "mouth", "teeth", "tongue",
    "eyeball_L", "eyeball_R", "iris_L", "iris_R", canonical.JOINTS,
)  # fmt: skip
VALUES = {
    "model.image_size": values.IMAGE_SIZE,
    "model.encoder": values.NAME,
    "model.depths": values.sequence(values.SIZE, 0, 4),
    "model.dims": values.sequence(values.SIZE, 0, 4),
    "model.final_norm": values.FLAG,
    "model.drop_path": values.number(0.0, 0.99),
    "model.layer_scale": values.positive(),
    "model.pool": values.choice("mean", *POOLS),
    "model.feature_width": values.SIZE,
    "model.query_width": values.SIZE,
    "model.fourier_bands": values.integer(0, 16),
    "model.predictor": values.choice("mlp", "soft_argmax", *TRANSFORMERS),
    "model.width": values.SIZE,
    "model.layers": values.SIZE,
    "model.heads": values.SIZE,
    "model.mean": values.RGB,
    "model.std": values.RGB_SCALE,
    "model.sigma": values.choice("log", "variance"),
    "model.normaliser": values.FLAG,
    "model.output": values.choice("image", "canonical"),
    "model.sigma_scale": values.positive(),
    "model.mirror": values.FLAG,
    "model.template": values.choice(sources.EMBEDDED, sources.RETIRED, "other"),
    "head.names": values.sequence(values.choice(*HEADS), least=1),
    "head.path": values.PATH,
    "head.backgrounds": values.PATH,
    "data.num_surface_samples": values.COUNT,
    "data.regions": values.sequence(values.choice(*REGIONS), least=1),
    "data.shares": values.sequence(values.positive()),
    "data.offsets": values.FLAG,
    "data.deformer": values.FLAG,
    "data.endless": values.FLAG,
    "layouts": values.section(values.SECTION),  # what an entry holds is checked by `query_table`
    "loss.warmup": values.COUNT,
    "loss.attention": values.WEIGHT,
    "loss.offsets": values.WEIGHT,
    "loss.displacement": values.WEIGHT,
}
