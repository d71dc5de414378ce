"""NPHM's first phase: the identity model, signed distances of heads at rest with a code per person.

python -m launch.prepare --dataset head_sdf/ict --data_dir data --manual_dir DIR_OF_ICT_FACEKIT
python -m launch.train --config configs/nphm_identity.py:ict --workdir work/nphm_identity

Variants: `ict` and `procedural` learn the reduced model from generated heads; `reference` is the published one on the
NPHM data set, `npm` its baseline; `smoke` runs in seconds and prepares its own data. Anchors and the number of codes
come from the prepared data set. `model.chunk` > 0 takes so many points of a person at a time and keeps no activations,
for cards that a batch does not fit. A batch holds examples, not people: with more devices than people, split their
points, e.g. --config.batch_size=512 --config.data.face=47 --config.data.nonface=4.
"""

import os
import tempfile

import ml_collections

VARIANTS = ("ict", "procedural", "reference", "npm", "smoke")


def _base() -> dict:
    return {
        "system": "nphm",
        "phase": "identity",
        "model": {
            "kind": "ensemble",
            "anchors": (),
            "pairs": 16,
            "global_code": 64,
            "local_code": 32,
            "code": 512,
            "width": 200,
            "layers": 4,
            "position_width": 256,
            "narrow_skip": True,
            "codes": 0,
            "chunk": 0,
            "last_is_one": False,
        },
        "data": {
            "dir": "data",
            "dataset": "nphm",
            "evaluate": ("nphm",),
            "face": 750,
            "nonface": 50,
            "near_every": 1,
            "build_examples": 0,
        },
        "loss": {
            "surface": 2.0,
            "normals": 0.3,
            "space": 0.01,
            "eikonal": 0.1,
            "code": 0.01,
            "anchors": 7.5,
            "symmetry": 0.01,
            "middle": 0.0,
        },
        "optim": {
            "lr": 5e-4,
            "code_lr": 1e-3,
            "weight_decay": 0.01,
            "clip": 0.1,
            "schedule": "step",
            "warmup": 0,
            "boundaries": (40000, 80000),
            "factor": 0.5,
        },
        "validation": {"steps": 200, "lr": 0.01},
        "fit": {"steps": 1000, "points": 5000, "resolution": 256, "method": "broyden"},
        "seed": 0,
        "steps": 120000,
        "batch_size": 32,
        "log_every": 100,
        "save_every": 2000,
        "eval_every": 20000,
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
    """For two cores: narrow members, few points of many people, and a rate that falls to zero."""
    config.data.dataset, config.data.evaluate = dataset, (dataset,)
    config.data.face, config.data.nonface, config.data.near_every = 96, 32, 4
    config.model.width, config.model.narrow_skip, config.model.local_code = 48, False, 16
    config.model.position_width = 128
    config.loss.code, config.loss.symmetry = 1e-3, 1e-3
    config.optim.update(lr=1.5e-3, code_lr=4e-3, clip=1.0, weight_decay=0.0, schedule="cosine", warmup=100)
    config.validation.steps, config.validation.lr = 60, 0.02
    config.fit.points, config.fit.resolution, config.fit.steps = 2000, 128, 500
    config.steps, config.batch_size, config.eval_every, config.save_every = 4000, 16, 4000, 400
    config.ema = 0.998


def _npm(config: ml_collections.ConfigDict) -> None:
    config.model.kind, config.model.width, config.model.layers = "single", 1024, 8
    config.loss.code, config.optim.weight_decay = 0.002, 0.02
    config.steps = 62000


def _smoke(config: ml_collections.ConfigDict) -> None:
    _generated("head_sdf/procedural", config)
    config.model.width, config.model.layers, config.model.position_width = 8, 2, 8
    config.model.global_code, config.model.local_code = 8, 4
    config.data.face, config.data.nonface, config.data.build_examples = 16, 8, 4
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
