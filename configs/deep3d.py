"""Deep3D: a head from one photograph, or from several of a person, trained without 3D.

python -m launch.prepare --dataset rendered_heads/procedural_portraits --data_dir data --examples 8000 --size 224
python -m launch.train --config configs/deep3d.py:rendered --workdir work/deep3d

Variants: `rendered` trains the model that ships, on pictures of heads and points in them, never on coefficients;
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
            "image_size": 224,
            "backbone": "resnet50",
            "width": 64,
            "reader": "mean",
            "dense": 0,
            "refine": 0,
            "identity": 0,  # 0: as many as the head has
            "expression": 0,
            "albedo": 0,
            "white_light": False,
            "confidence": False,
        },
        "head": {"name": "procedural", "path": "", "crop": "tf"},
        "data": {
            "dir": "data",
            "datasets": ("face_folder",),
            "evaluate": ("face_folder",),
            "augment": 1.0,
            "build_examples": 0,
        },
        "loss": {
            "attention": "posterior",
            "recognition": "",
            "distance": "squared",
            "rendered": 0,
            "weights": {
                "perceptual": 0.2,
                "photometric": 1.92,
                "coefficients": 3e-4,
                "light": 10.0,
                "landmarks": 1.6e-3,
                "evenness": 5.0,
                "heat_map": 0.0,
                "points": 0.0,
            },
            "size": {"identity": 1.0, "expression": 0.8, "albedo": 1.7e-2},
        },
        "optim": {
            "name": "adam",
            "lr": 1e-4,
            "schedule": "step",
            "boundaries": (93750,),
            "factor": 0.2,
            "warmup": 0,
            "weight_decay": 0.0,
            "clip": 0.0,
            "betas": (0.9, 0.999),
            "multipliers": {},
        },
        "seed": 0,
        "steps": 187500,
        "batch_size": 32,
        "log_every": 50,
        "save_every": 5000,
        "eval_every": 5000,
        "keep": 3,
        "best": "",
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
    """The public PyTorch code's: 257 coefficients, 20 epochs of 300 k pictures, Adam, ×0.2 every 10 epochs."""
    config.model.update(identity=80, expression=64, albedo=80)
    config.head.name = "bfm"


def _rendered(config: ml_collections.ConfigDict) -> None:
    """A small net that looks for points and fits the face to them; every eighth picture is also rendered."""
    config.model.update(image_size=128, backbone="resnet18", width=32, reader="fit", dense=128, refine=8)
    config.data.datasets = config.data.evaluate = ("rendered_heads/procedural_portraits",)
    # Crops are cut by our own landmarks, which scatter less than those of the published pipeline.
    config.data.augment = 0.4
    # Coloured light on generated skin is wanted here; lengths are weighed against plain distances.
    config.loss.update(attention="none", distance="plain", rendered=2)
    config.loss.weights.update(light=1.0, landmarks=1.0, coefficients=0.01, heat_map=1.0, points=1.0)
    config.loss.size.update(identity=1.0, expression=1.0, albedo=5e-4)
    config.optim.update(name="adamw", lr=1.5e-3, schedule="cosine", warmup=100, weight_decay=0.02, clip=5.0)
    config.optim.betas = (0.9, 0.99)
    config.steps, config.batch_size, config.ema = 5500, 16, 0.998
    config.save_every, config.eval_every = 500, 2750


def _sets(config: ml_collections.ConfigDict) -> None:
    _rendered(config)
    config.model.confidence, config.loss.rendered = True, 4
    config.data.datasets = config.data.evaluate = ("rendered_sets/procedural_portraits",)
    # Only how pictures are weighed is learned here. Those that tell little have the smallest coefficients.
    config.loss.weights.coefficients = 0.0
    config.batch_size, config.steps, config.optim.warmup = 4, 80, 20
    config.save_every, config.eval_every = 40, 40


def _smoke(config: ml_collections.ConfigDict) -> None:
    _rendered(config)
    config.model.update(image_size=64, width=8)
    config.data.datasets = config.data.evaluate = ("rendered_heads/procedural",)
    config.data.build_examples = 16
    config.data.dir = os.path.join(tempfile.gettempdir(), f"jaxface-smoke-{os.getuid()}")
    config.optim.warmup = 2
    config.steps, config.batch_size, config.log_every, config.save_every, config.eval_every = 8, 4, 2, 2, 4


_VARIANTS = {"rendered": _rendered, "reference": _reference, "sets": _sets, "smoke": _smoke}
