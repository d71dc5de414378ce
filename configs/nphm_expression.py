"""NPHM's expression model (phase 2): how a head in a neutral expression deforms, with a latent code per scan.

python -m launch.train --config configs/nphm_expression.py:ict --workdir work/nphm --config.identity=work/nphm_identity

`identity` is the workdir of the identity model (configs/nphm_identity.py), whose parameters stay constant. It is copied
to the new workdir, which is thus self-contained. `model.codes`, the number of scans, is read from the prepared data
set. `model.dtype` and `model.remat` as in configs/nphm_identity.py.

Variants:
    ict, makehuman: a reduced model, trained on generated heads.
    own: the reduced model on the user's scans (launch.fit --register --training_set).
    reference: the published model on the NPHM data set.
    npm: the paper's baseline.
    smoke: runs in seconds, builds its own data and uses a randomly initialised identity model.
"""

import functools

import ml_collections

from jaxface.config import apply_smoke, data_defaults, run_defaults, scale_defaults, variant_config


def get_config(variant: str = "ict") -> ml_collections.ConfigDict:
    """The configuration of a variant. Raises ValueError for an unknown one."""
    return variant_config(_base(), VARIANTS, variant)


def _base() -> dict:
    return {
        "system": "nphm",
        "phase": "expression",
        "identity": "",
        "random_identity": {},
        "model": {
            "code": 200,
            "compressed": 32,
            "width": 512,
            "layers": 6,
            "narrow_skip": True,
            "codes": 0,
            "dtype": "float32",
            "remat": False,
        },
        "data": data_defaults(dataset="nphm", evaluate=("nphm",), pairs=1000),
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
            **scale_defaults(),
        },
        "validation": {"steps": 200, "lr": 0.01, "code": 0.01},
        "fit": {
            "steps": 1000,
            "points": 5000,
            "face_share": 0.0,
            "resolution": 256,
            "method": "broyden",
            "schedule": "official",
        },
        **run_defaults(steps=375000, batch_size=32, log_every=100, save_every=5000, eval_every=50000),
    }


def _generated(dataset: str, config: ml_collections.ConfigDict) -> None:
    """For two CPU cores: few point pairs of many scans per batch, so that every code is updated often."""
    config.data.update(dataset=dataset, evaluate=(dataset,), pairs=96)
    config.model.update(code=64, width=128, narrow_skip=False)
    config.optim.update(lr=1e-3, code_lr=4e-3, clip=1.0, weight_decay=0.0, schedule="cosine", warmup=100)
    config.validation.update(steps=60, lr=0.02)
    config.fit.update(points=2000, face_share=0.75, resolution=128, steps=500, schedule="late_truncation")
    config.update(steps=6000, batch_size=64, eval_every=6000, save_every=1000, ema=0.998)


def _npm(config: ml_collections.ConfigDict) -> None:
    config.model.update(compressed=0, width=1024, layers=8)
    config.loss.zero, config.optim.weight_decay = 0.0, 1e-5
    config.optim.update(boundaries=(150000, 300000), factor=0.2)


def _smoke(config: ml_collections.ConfigDict) -> None:
    _generated("head_sdf/makehuman", config)
    apply_smoke(config, build_examples=4)
    config.random_identity = {
        "kind": "ensemble",
        "anchors": (),
        "pairs": 16,
        "global_code": 8,
        "local_code": 4,
        "width": 8,
        "layers": 2,
        "position_width": 8,
        "narrow_skip": False,
        "codes": 0,
        "replicate_last_point_bug": False,
    }
    config.model.update(code=8, compressed=4, width=16, layers=2)
    config.data.pairs = 110
    config.optim.warmup, config.validation.steps = 2, 2
    config.fit.update(steps=4, points=64, resolution=24)


VARIANTS = {
    "ict": functools.partial(_generated, "head_sdf/ict"),
    "makehuman": functools.partial(_generated, "head_sdf/makehuman"),
    "own": functools.partial(_generated, "nphm"),
    "reference": lambda config: None,
    "npm": _npm,
    "smoke": _smoke,
}
