"""3D landmarks by joint voxel and coordinate regression (JVCR).

python -m launch.prepare --dataset rendered_heads/procedural_portraits --data_dir data --examples 8000 --size 224
python -m launch.train --config configs/jvcr.py:rendered --workdir work/jvcr

Variants: `rendered` is a small network for rendered heads and CPUs; `reference` is the original with all its
surprises, to load its weights and to train as it did; `clean` is what the paper says, on 300W-LP and
AFLW2000-3D too; `smoke` runs in seconds and prepares its own data.
"""

import os
import tempfile

import ml_collections

VARIANTS = ("rendered", "reference", "clean", "smoke")
# 300W-LP without its mirrored pictures, in batches of 20.
EPOCH = 61225 // 20


def _paper_model() -> dict:
    """The published size: 32.5 M parameters at 256 px."""
    return {
        "image_size": 256,
        "stacks": 4,
        "depths": (1, 2, 4, 64),
        "width": 256,
        "levels": 4,
        "blocks": 1,
        "regressor": "encoder",
        "channels": (64, 128, 256, 512),
        "embedding": 256,
        "points": 71,
    }


def _base() -> dict:
    return {
        "system": "jvcr",
        "mode": "clean",
        "model": _paper_model(),
        "data": {
            "dir": "data",
            "datasets": ("w300lp",),
            "evaluate": ("aflw2000_3d",),
            "augment": {
                "scale": 0.08,
                "rotation_deg": 40.0,
                "rotation_share": 0.6,
                "shift": 0.0,
                "color": 0.3,
                "degrade": False,
            },
            "build_examples": 0,
        },
        "loss": {
            "pretrain": 15 * EPOCH,
            "distance": "squared",
            "voxel": 0.1,
            "attention": 0.0,
            "both_volumes": False,
        },
        "optim": {
            "name": "rmsprop",
            "lr": 2.5e-4,
            "schedule": "step",
            "boundaries": (10 * EPOCH, 20 * EPOCH),
            "factor": (0.1, 0.1),
            "warmup": 0,
            "weight_decay": 0.0,
            "clip": 0.0,
            "betas": (0.9, 0.999),
            "multipliers": {},
        },
        "seed": 0,
        "steps": 25 * EPOCH,
        "batch_size": 20,
        "log_every": 50,
        "save_every": 1000,
        "eval_every": EPOCH,
        "keep": 3,
        "best": "aflw2000_3d/nme",
        "ema": 0.0,
        "backend": "pmap",
        "prefetch": 2,
        "resume": "",
        "init": "",
    }


def get_config(variant: str = "rendered") -> ml_collections.ConfigDict:
    """The configuration of a variant. ValueError names the variants there are."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; choose one of {', '.join(VARIANTS)}")
    config = ml_collections.ConfigDict(_base())
    _VARIANTS[variant](config)
    return config


def _reference(config: ml_collections.ConfigDict) -> None:
    """Learning rates are those in effect: Adam's default first, the nominal 2.5e-4's decays after it."""
    config.mode, config.loss.both_volumes = "reference", True
    config.steps = 30 * EPOCH
    config.optim.name, config.optim.lr, config.optim.factor = "adam", 1e-3, (0.025, 0.1)


def _small(config: ml_collections.ConfigDict) -> None:
    """Two stacks of width 64 at 96 px, volumes of 24; crops by the boxes of rendered heads."""
    config.model.image_size, config.model.stacks, config.model.depths = 96, 2, (6, 24)
    config.model.width, config.model.levels, config.model.regressor = 64, 3, "reader"
    config.data.datasets = config.data.evaluate = ("rendered_heads/procedural",)
    config.data.augment.update(rotation_deg=8.0, scale=0.06, shift=0.03, color=0.05)
    config.best = ""


def _rendered(config: ml_collections.ConfigDict) -> None:
    """Both halves together from the start."""
    _small(config)
    config.data.datasets = config.data.evaluate = ("rendered_heads/procedural_portraits",)
    config.optim.update(name="adamw", lr=2e-3, schedule="cosine", warmup=100, weight_decay=0.01, clip=1.0)
    config.loss.update(pretrain=0, distance="plain", voxel=0.5, attention=0.005)
    config.steps, config.batch_size, config.ema = 3000, 16, 0.998
    config.save_every, config.eval_every = 500, 1500


def _smoke(config: ml_collections.ConfigDict) -> None:
    """The paper's form, tiny: 32 px, volumes of 8, both phases."""
    _small(config)
    config.model.image_size, config.model.depths = 32, (1, 8)
    config.model.update(levels=1, width=16, regressor="encoder", channels=(8,), embedding=16)
    config.data.build_examples = 16
    config.data.dir = os.path.join(tempfile.gettempdir(), f"jaxface-smoke-{os.getuid()}")
    config.optim.boundaries, config.loss.pretrain = (5, 7), 4
    config.steps, config.batch_size, config.log_every, config.save_every, config.eval_every = 8, 4, 2, 2, 4


_VARIANTS = {"rendered": _rendered, "reference": _reference, "clean": lambda config: None, "smoke": _smoke}
