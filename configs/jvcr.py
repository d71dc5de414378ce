"""3D landmarks by joint voxel and coordinate regression (JVCR).

python -m launch.prepare --dataset rendered_heads/makehuman_portraits --data_dir data --examples 8000 --size 224
python -m launch.train --config configs/jvcr.py:rendered --workdir work/jvcr

Variants:
    rendered: a small network for rendered heads and CPUs.
    reference: the official code with all its deviations from the paper, to load its weights and to train as published.
    clean: what the paper describes, on 300W-LP and AFLW2000-3D.
    depth_1, depth_2, depth_4, depth_64: `rendered` with volumes of that depth in both stacks, for the paper's study of
        the depth (its section 4).
    smoke: runs in seconds and builds its own data.

Keys: `mode`, "reference" or "clean", see `jaxface.systems.jvcr.transforms`; `model`, see `model.model_from_config`;
`loss`, see `losses.training_loss`; `data.augment`, see `data.preprocess_train`.
"""

import functools

import ml_collections

from jaxface.config import apply_smoke, data_defaults, optim_defaults, run_defaults, variant_config


def get_config(variant: str = "rendered") -> ml_collections.ConfigDict:
    """The configuration of a variant. Raises ValueError for an unknown one."""
    return variant_config(_base(), VARIANTS, variant)


def _base() -> dict:
    return {
        "system": "jvcr",
        "mode": "clean",
        "model": _paper_model(),
        "data": data_defaults(
            datasets=("w300lp",),
            evaluate=("aflw2000_3d",),
            augment={
                "scale": 0.08,
                "rotation_deg": 40.0,
                "rotation_share": 0.6,
                "shift": 0.0,
                "color": 0.3,
                "degrade": False,
            },
        ),
        "loss": {
            "pretrain": 0,
            "pretrain_epochs": 15.0,
            "distance": "squared",
            "voxel": 0.1,
            "attention": 0.0,
            "both_volumes": False,
        },
        "optim": optim_defaults(
            name="rmsprop", lr=2.5e-4, boundaries=(), boundaries_epochs=(10, 20), factor=(0.1, 0.1)
        ),
        **run_defaults(
            epochs=25.0, batch_size=20, save_every=1000, eval_every=0, eval_every_epochs=1.0, best="aflw2000_3d/nme"
        ),
    }


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
        "batch_norm_group": 0,
        "dtype": "float32",
        "remat": False,
    }


def _reference(config: ml_collections.ConfigDict) -> None:
    """The official training; its first learning rate is Adam's default, later ones are decays of the nominal 2.5e-4."""
    config.mode, config.loss.both_volumes = "reference", True
    config.model.batch_norm_group = 1
    config.optim.update(name="adam", lr=1e-3, factor=(0.025, 0.1))
    config.epochs = 30.0


def _small(config: ml_collections.ConfigDict) -> None:
    """Two stacks of width 64 at 96 px, volumes of 24; crops by the boxes of rendered heads."""
    config.model.update(image_size=96, stacks=2, depths=(6, 24), width=64, levels=3, regressor="soft_argmax")
    datasets = ("rendered_heads/makehuman",)
    config.data.update(datasets=datasets, evaluate=datasets)
    config.data.augment.update(rotation_deg=8.0, scale=0.06, shift=0.03, color=0.05)
    config.best = ""
    config.epochs = config.eval_every_epochs = config.loss.pretrain_epochs = 0.0
    config.optim.boundaries_epochs = ()


def _rendered(config: ml_collections.ConfigDict) -> None:
    """Both networks are trained together from the start, without the phase that trains only the volumes."""
    _small(config)
    datasets = ("rendered_heads/makehuman_portraits",)
    config.data.update(datasets=datasets, evaluate=datasets)
    config.optim.update(name="adamw", lr=2e-3, schedule="cosine", warmup=100, weight_decay=0.01, clip=1.0)
    config.loss.update(pretrain=0, distance="plain", voxel=0.5, attention=0.005)
    config.update(steps=3000, batch_size=16, ema=0.998, save_every=500, eval_every=1500)


def _depth(depth: int, config: ml_collections.ConfigDict) -> None:
    """`rendered` for 1,000 steps with volumes of `depth` cells in both stacks."""
    _rendered(config)
    config.model.depths = (depth, depth)
    config.update(steps=1000, eval_every=1000)


def _smoke(config: ml_collections.ConfigDict) -> None:
    """The paper's architecture at 32 px with volumes of 8; both training phases."""
    _small(config)
    apply_smoke(config)
    config.model.update(image_size=32, depths=(1, 8), levels=1, width=16)
    config.model.update(regressor="encoder", channels=(8,), embedding=16)
    config.optim.boundaries, config.loss.pretrain = (5, 7), 4


VARIANTS = {
    "rendered": _rendered,
    "reference": _reference,
    "clean": lambda config: None,
    **{f"depth_{depth}": functools.partial(_depth, depth) for depth in (1, 2, 4, 64)},
    "smoke": _smoke,
}
