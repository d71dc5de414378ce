"""Continuous landmark detection with 3D queries.

python -m launch.prepare --dataset rendered_heads/procedural --data_dir data
python -m launch.train --config configs/continuous.py:rendered --workdir work/continuous

Variants: `rendered` began the model that ships and `endless` finished it; `quick` is the quickstart's two minutes;
`endless` renders its batches inside the step, of the heads `config.head.names` in turn, some with beards, hair in the
face and glasses; `convnext_tiny` and `convnext_small` are the paper's size at 224 px; `unofficial_mlp` and
`unofficial_transformer` have the layout of the PyTorch rebuild florisdf/continuous_landmarks, to load its weights;
`smoke` runs in seconds and prepares its own data.
"""

import os
import tempfile

import ml_collections

VARIANTS = (
    "rendered",
    "quick",
    "endless",
    "convnext_tiny",
    "convnext_small",
    "unofficial_mlp",
    "unofficial_transformer",
    "smoke",
)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _own_model() -> dict:
    """The shipped detector: 2.4 M parameters at 128 px."""
    return {
        "image_size": 128,
        "encoder": "custom",
        "depths": (1, 2, 6, 2),
        "dims": (32, 64, 128, 256),
        "dtype": "float32",
        "final_norm": True,
        "drop_path": 0.0,
        "layer_scale": 1.0,
        "pool": "map",
        "feature_width": 96,
        "query_width": 64,
        "fourier_bands": 4,
        "predictor": "locate",
        "width": 256,
        "layers": 2,
        "heads": 8,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "sigma": "log",
    }


def _paper_model(encoder: str) -> dict:
    """The published size: ConvNeXt with 768 features at 224 px, queries of width 64, four layers of 512."""
    return {
        **_own_model(),
        "image_size": 224,
        "encoder": encoder,
        "depths": (),
        "dims": (),
        "drop_path": 0.1,
        "layer_scale": 1e-6,
        "pool": "mean",
        "feature_width": 768,
        "fourier_bands": 0,
        "predictor": "mlp",
        "width": 512,
        "layers": 4,
    }


def _unofficial_model(predictor: str) -> dict:
    return {
        **_paper_model("convnext_small"),
        "final_norm": False,
        "drop_path": 0.0,
        "predictor": predictor,
        "width": 512 if predictor == "mlp" else 768,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.2, 0.2, 0.2),
        "sigma": "variance",
    }


def _base() -> dict:
    return {
        "system": "continuous",
        "model": _own_model(),
        "head": {"names": ("procedural",), "path": ""},
        "data": {
            "dir": "data",
            "datasets": ("rendered_heads/procedural",),
            "evaluate": ("rendered_heads/procedural",),
            "dense": 64,
            "endless": False,
            "build_examples": 0,
        },
        "loss": {"warmup": 3000, "attention": 1.0},
        "optim": {
            "name": "adamw",
            "lr": 1e-3,
            "schedule": "cosine",
            "warmup": 200,
            "weight_decay": 0.02,
            "clip": 1.0,
            "betas": (0.9, 0.99),
            "multipliers": {},
        },
        "seed": 0,
        "steps": 7500,
        "batch_size": 16,
        "log_every": 50,
        "save_every": 500,
        "eval_every": 2000,
        "keep": 3,
        "best": "",
        "ema": 0.999,
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


def _rendered(config: ml_collections.ConfigDict) -> None:
    both = ("rendered_heads/procedural", "rendered_heads/ict")
    config.data.datasets = config.data.evaluate = both


def _quick(config: ml_collections.ConfigDict) -> None:
    config.model.dims = (24, 48, 96, 192)
    config.model.depths = (1, 1, 3, 1)
    config.model.image_size = 96
    config.optim.lr = 2e-3
    config.steps, config.batch_size = 1500, 16
    config.loss.warmup, config.eval_every = 300, 1500


def _endless(config: ml_collections.ConfigDict) -> None:
    config.data.endless = True
    config.data.datasets = config.data.evaluate = ()


def _convnext(encoder: str, config: ml_collections.ConfigDict) -> None:
    config.model = _paper_model(encoder)
    config.optim.lr, config.optim.multipliers = 5e-4, {"encoder": 0.25}
    config.optim.weight_decay, config.optim.betas = 0.05, (0.9, 0.95)
    config.batch_size, config.steps, config.optim.warmup, config.loss.warmup = 512, 60000, 1000, 2000
    config.ema = 0.9998


def _unofficial(predictor: str, config: ml_collections.ConfigDict) -> None:
    config.model = _unofficial_model(predictor)
    config.optim.lr, config.optim.weight_decay, config.optim.betas = 1e-4, 0.0, (0.95, 0.999)
    config.optim.schedule, config.optim.warmup, config.optim.clip = "constant", 100, 0.0
    config.batch_size, config.ema = 64, 0.0


def _smoke(config: ml_collections.ConfigDict) -> None:
    config.model.image_size, config.model.depths, config.model.dims = 64, (1, 1, 1, 1), (8, 8, 16, 16)
    config.model.feature_width = config.model.width = 32
    config.data.dense, config.data.build_examples = 8, 16
    config.data.dir = os.path.join(tempfile.gettempdir(), f"jaxface-smoke-{os.getuid()}")
    config.optim.warmup, config.loss.warmup = 2, 4
    config.steps, config.batch_size, config.log_every, config.save_every, config.eval_every = 8, 4, 2, 2, 4


_VARIANTS = {
    "rendered": _rendered,
    "quick": _quick,
    "endless": _endless,
    "convnext_tiny": lambda config: _convnext("convnext_tiny", config),
    "convnext_small": lambda config: _convnext("convnext_small", config),
    "unofficial_mlp": lambda config: _unofficial("mlp", config),
    "unofficial_transformer": lambda config: _unofficial("transformer", config),
    "smoke": _smoke,
}
