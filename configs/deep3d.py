"""Deep3D: a head from one photograph, or from several of a person, trained without 3D.

python -m launch.prepare --dataset rendered_heads/procedural --data_dir data
python -m launch.train --config configs/deep3d.py:rendered --workdir work/deep3d

Variants: `rendered` trains the model that ships, on pictures of heads of which it sees pixels and 68 points only;
`reference` is the published size, for converted weights (`--config.head.path=BFM_model_front.mat`) and for training on
`face_folder`; `sets` trains the confidence net of several pictures on top of a trained model
(`--config.init=work/deep3d`); `smoke` runs in seconds and prepares its own data. `config.head.name` is procedural
(embedded), ict or bfm, the last two with `config.head.path`.
"""

import os
import tempfile

import ml_collections

VARIANTS = ("rendered", "reference", "sets", "smoke")


def _base() -> dict:
    return {
        "system": "deep3d",
        "model": {
            "image_size": 112,
            "backbone": "resnet18",
            "width": 40,
            "identity": 0,  # 0: as many as the head has
            "expression": 0,
            "albedo": 0,
            "white_light": False,
            "confidence": False,
        },
        "head": {"name": "procedural", "path": "", "crop": "tf"},
        "data": {
            "dir": "data",
            "datasets": ("rendered_heads/procedural",),
            "evaluate": ("rendered_heads/procedural",),
            "build_examples": 0,
        },
        "loss": {
            "attention": "none",
            "recognition": "",
            "weights": {
                "perceptual": 0.2,
                "photometric": 1.92,
                "coefficients": 3e-4,
                "light": 1.0,  # the public code has 10; coloured light on generated skin is wanted here
                "landmarks": 1.6e-3,
                "evenness": 5.0,
            },
            "size": {"identity": 1.0, "expression": 0.8, "albedo": 1.7e-2},
        },
        "optim": {
            "name": "adamw",
            "lr": 7e-4,
            "schedule": "cosine",
            "warmup": 100,
            "weight_decay": 0.0,
            "clip": 1.0,
            "betas": (0.9, 0.99),
            "multipliers": {},
        },
        "seed": 0,
        "steps": 10000,
        "batch_size": 8,
        "log_every": 50,
        "save_every": 1000,
        "eval_every": 2500,
        "keep": 3,
        "best": "",
        "ema": 0.998,
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
    """The public PyTorch code's: 257 coefficients, 20 epochs of 300 k pictures, Adam, ×0.2 every 10 epochs."""
    config.model.update(image_size=224, backbone="resnet50", width=64, identity=80, expression=64, albedo=80)
    config.head.name = "bfm"
    config.data.datasets = config.data.evaluate = ("face_folder",)
    config.loss.attention, config.loss.weights.light = "posterior", 10.0
    config.batch_size, config.steps, config.ema = 32, 187500, 0.0
    config.optim.update(name="adam", lr=1e-4, schedule="step", warmup=0, clip=0.0, betas=(0.9, 0.999))
    config.optim.boundaries, config.optim.factor = (93750,), 0.2
    config.save_every = config.eval_every = 5000


def _sets(config: ml_collections.ConfigDict) -> None:
    config.model.confidence = True
    config.data.datasets = config.data.evaluate = ("rendered_sets/procedural",)
    config.batch_size, config.steps, config.optim.warmup = 4, 1000, 50
    config.save_every, config.eval_every = 250, 500


def _smoke(config: ml_collections.ConfigDict) -> None:
    config.model.update(image_size=64, width=8)
    config.data.build_examples = 16
    config.data.dir = os.path.join(tempfile.gettempdir(), f"jaxface-smoke-{os.getuid()}")
    config.optim.warmup = 2
    config.steps, config.batch_size, config.log_every, config.save_every, config.eval_every = 8, 4, 2, 2, 4


_VARIANTS = {"rendered": lambda config: None, "reference": _reference, "sets": _sets, "smoke": _smoke}
