"""Ranges and choices of the configuration values of this system (configs/nphm_identity.py, nphm_expression.py)."""

from jaxface import config_values as values

_NETWORK = {
    "kind": values.choice("ensemble", "single"),
    "anchors": values.sequence(values.number()),
    "pairs": values.COUNT,
    "global_code": values.SIZE,
    "local_code": values.SIZE,
    "code": values.SIZE,
    "compressed": values.COUNT,
    "width": values.SIZE,
    "layers": values.integer(1, 64),
    "position_width": values.SIZE,
    "narrow_skip": values.FLAG,
    "codes": values.COUNT,
    "chunk": values.COUNT,
    "replicate_last_point_bug": values.FLAG,
}
VALUES = {
    "phase": values.choice("identity", "expression"),
    "identity": values.FOLDER,
    **{f"model.{name}": rule for name, rule in _NETWORK.items()},
    **{f"random_identity.{name}": rule for name, rule in _NETWORK.items()},
    "data.dataset": values.NAME,
    "data.face": values.SIZE,
    "data.nonface": values.SIZE,
    "data.near_surface_stride": values.SIZE,
    "data.pairs": values.SIZE,
    "loss": values.section(values.WEIGHT),
    "optim.code_lr": values.positive(),
    "validation.steps": values.COUNT,
    "validation.lr": values.positive(),
    "validation.code": values.WEIGHT,
    "fit.steps": values.COUNT,
    "fit.points": values.SIZE,
    "fit.face_share": values.number(0.0, 0.99),
    "fit.resolution": values.integer(8, 4096),
    "fit.method": values.choice("broyden", "newton"),
    "fit.schedule": values.choice("official", "late_truncation"),
}
