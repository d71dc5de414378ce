"""NPHM's second phase: the expression model, how a head at rest deforms, with a code per scan.

python -m launch.train --config configs/nphm_expression.py:ict --workdir work/nphm --config.identity=work/nphm_identity

`identity` names the workdir of the first phase (configs/nphm_identity.py), which stays as it is; a copy goes into the
new workdir, which then stands alone. Variants as there: `ict` and `procedural` are reduced, `reference` is the
published model, `npm` its baseline, `smoke` runs in seconds on an untrained identity model.
"""

import os
import tempfile

import ml_collections

VARIANTS = ("ict", "procedural", "reference", "npm", "smoke")


def _base() -> dict:
    return {
        "system": "nphm",
        "phase": "expression",
        "identity": "",
        "untrained": {},
        "model": {"code": 200, "compressed": 32, "width": 512, "layers": 6, "narrow_skip": True, "codes": 0},
        "data": {"dir": "data", "dataset": "nphm", "evaluate": ("nphm",), "pairs": 1000, "build_examples": 0},
        "loss": {"correspondence": 100.0, "code": 5e-5, "zero": 5e-5},
        "optim": {
            "lr": 1e-4,
            "code_lr": 5e-4,
            "weight_decay": 5e-4,
            "clip": 0.025,
            "schedule": "step",
            "warmup": 0,
            "boundaries": (90000, 180000, 270000, 360000),
            "factor": 0.5,
        },
        "validation": {"steps": 200, "lr": 0.01, "code": 0.01},
        "fit": {"steps": 1000, "points": 5000, "resolution": 256, "method": "broyden"},
        "seed": 0,
        "steps": 375000,
        "batch_size": 32,
        "log_every": 100,
        "save_every": 5000,
        "eval_every": 50000,
        "keep": 3,
        "best": "",
        "ema": 0.0,
        "backend": "pmap",
        "prefetch": 2,
        "resume": "",
        "init": "",
    }


def get_config(variant: str = "ict") -> ml_collections.ConfigDict:
    """The configuration of a variant. ValueError names the variants there are."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; choose one of {', '.join(VARIANTS)}")
    config = ml_collections.ConfigDict(_base())
    _VARIANTS[variant](config)
    return config


def _generated(dataset: str, config: ml_collections.ConfigDict) -> None:
    """For two cores: few pairs of many scans, so that every code is seen often."""
    config.data.dataset, config.data.evaluate, config.data.pairs = dataset, (dataset,), 96
    config.model.code, config.model.width, config.model.narrow_skip = 64, 128, False
    config.optim.update(lr=1e-3, code_lr=4e-3, clip=1.0, weight_decay=0.0, schedule="cosine", warmup=100)
    config.validation.steps, config.validation.lr = 60, 0.02
    config.fit.points, config.fit.resolution, config.fit.steps = 2000, 128, 500
    config.steps, config.batch_size, config.eval_every, config.save_every = 6000, 64, 6000, 1000
    config.ema = 0.998


def _npm(config: ml_collections.ConfigDict) -> None:
    config.model.compressed, config.model.width, config.model.layers = 0, 1024, 8
    config.loss.zero, config.optim.weight_decay = 0.0, 1e-5
    config.optim.boundaries, config.optim.factor = (150000, 300000), 0.2


def _smoke(config: ml_collections.ConfigDict) -> None:
    _generated("head_sdf/procedural", config)
    config.untrained = {
        "kind": "ensemble", "anchors": (), "pairs": 16, "global_code": 8, "local_code": 4, "width": 8, "layers": 2,
        "position_width": 8, "narrow_skip": False, "codes": 0, "last_is_one": False,
    }  # fmt: skip
    config.model.code, config.model.compressed, config.model.width, config.model.layers = 8, 4, 16, 2
    config.data.pairs, config.data.build_examples = 110, 4
    config.data.dir = os.path.join(tempfile.gettempdir(), f"jaxface-smoke-{os.getuid()}")
    config.optim.warmup, config.validation.steps = 2, 2
    config.fit.steps, config.fit.points, config.fit.resolution = 4, 64, 24
    config.steps, config.batch_size, config.log_every, config.save_every, config.eval_every = 8, 4, 2, 2, 4


_VARIANTS = {
    "ict": lambda config: _generated("head_sdf/ict", config),
    "procedural": lambda config: _generated("head_sdf/procedural", config),
    "reference": lambda config: None,
    "npm": _npm,
    "smoke": _smoke,
}
