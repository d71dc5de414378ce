"""PIPNet.

python -m launch.prepare --dataset rendered_heads/procedural --data_dir data
python -m launch.train --config configs/pipnet.py:rendered --workdir work/pipnet

Variants: `rendered` trains a small net from scratch on rendered heads in 20 minutes of two CPU cores; `<data>_<net>` is
the original's experiment, data 300w, wflw, cofw, aflw or lapa (`launch.prepare --dataset wflw --manual_dir …`), net
resnet18, resnet50, resnet101, mobilenet_v2 or mobilenet_v3; `gssl_resnet18` and, on rendered heads, `rendered_gssl`
are for `launch.self_train` (alone, its first round); `own` learns a folder of your own; `smoke` runs in seconds and
prepares its own data.

python -m launch.self_train --config configs/pipnet.py:rendered_gssl --workdir work/gssl --round0 work/pipnet \\
    --config.init=work/pipnet --rounds std,cls3,std

python -m launch.prepare --dataset landmark_folder --manual_dir FOLDER --data_dir data
python -m launch.train --config configs/pipnet.py:own --workdir work/own --config.init=BACKBONE

The original starts from ImageNet: convert a torchvision checkpoint with `launch.convert` and train with
--config.init=WORKDIR. From scratch it adds --config.optim.weight_decay=5e-4.
"""

import os
import tempfile

import ml_collections

# Landmarks, outer eye corners (none: errors are over the crop's size), and examples to train on.
DATA = {
    "300w": (68, (36, 45), 3148),
    "wflw": (98, (60, 72), 7500),
    "cofw": (29, (8, 9), 1345),
    "aflw": (19, (), 20000),
    "lapa": (106, (66, 79), 18168),
}
NETS = ("resnet18", "resnet50", "resnet101", "mobilenet_v2", "mobilenet_v3")
WFLW_TESTS = ("largepose", "expression", "illumination", "makeup", "occlusion", "blur")
VARIANTS = (
    "rendered",
    *(f"{data}_{net}" for data in DATA for net in NETS),
    "gssl_resnet18",
    "rendered_gssl",
    "own",
    "smoke",
)
BATCH = 16


def _base() -> dict:
    """The original's settings, which its experiment files share."""
    return {
        "system": "pipnet",
        "model": {
            "backbone": "resnet18",
            "depths": (),
            "width": 64,
            "image_size": 256,
            "stride": 32,
            "landmarks": 68,
            "neighbors": 10,
            "layout": "68",
            "meanface": (),
            "merge": "cyclic",
            "confidence": False,
            "crop": "meanface",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
        },
        "data": {
            "dir": "data",
            "datasets": ("300w",),
            "evaluate": ("300w",),
            "unlabelled": (),
            "pseudo_labels": "",
            "task": "std",
            "flip": (),
            "eye_corners": (36, 45),
            "build_examples": 0,
        },
        "loss": {"map": "l2", "offset": "l1", "map_weight": 10.0, "offset_weight": 1.0},
        "optim": {
            "name": "adam",
            "lr": 1e-4,
            "schedule": "step",
            "boundaries": (),
            "factor": 0.1,
            "warmup": 0,
            "weight_decay": 0.0,
            "clip": 0.0,
            "betas": (0.9, 0.999),
            "multipliers": {},
        },
        "seed": 0,
        "steps": 0,
        "batch_size": BATCH,
        "log_every": 50,
        "save_every": 1000,
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
    if variant in _NAMED:
        _NAMED[variant](config)
    else:
        _published(config, *variant.split("_", 1))
    return config


def _published(config: ml_collections.ConfigDict, data: str, net: str) -> None:
    """Adam, 60 epochs, the rate a tenth at 30 and 50; MobileNetV3 (author, issue 47) 120, 60, 100."""
    count, corners, examples = DATA[data]
    config.model.backbone, config.model.landmarks, config.model.layout = net, count, str(count)
    config.data.datasets = config.data.evaluate = (data,)
    config.data.eye_corners = corners
    if data == "300w":
        config.data.evaluate = ("300w", "300w:test_common", "300w:test_challenge")
    if data == "wflw":
        config.data.evaluate = ("wflw", *(f"wflw:test_{subset}" for subset in WFLW_TESTS))
    _epochs(config, examples, *((120, 60, 100) if net == "mobilenet_v3" else (60, 30, 50)))


def _epochs(config: ml_collections.ConfigDict, examples: int, epochs: int, *boundaries: int) -> None:
    steps = examples // BATCH
    config.steps = epochs * steps
    config.optim.boundaries = tuple(boundary * steps for boundary in boundaries)


def _gssl(config: ml_collections.ConfigDict) -> None:
    config.data.datasets = ("300w/gssl",)
    config.data.evaluate = ("300w/gssl", "cofw/68", "wflw/68")
    config.data.unlabelled = ("celeba",)
    _epochs(config, DATA["300w"][2], 60, 30, 50)


def _own(config: ml_collections.ConfigDict) -> None:
    """A folder of the user's own: the number of landmarks, the mean face and the flip map are those of its data set."""
    config.model.landmarks, config.model.layout = 0, "own"
    config.data.datasets = config.data.evaluate = ("landmark_folder",)
    config.data.eye_corners = ()
    _epochs(config, 3000, 60, 30, 50)


def _scratch(config: ml_collections.ConfigDict) -> None:
    """A small net at stride 16 on rendered heads, trained from scratch."""
    config.model.backbone, config.model.crop = "custom", "square"
    config.model.depths, config.model.width = (2, 2, 2), 32
    config.model.image_size, config.model.stride = 128, 16
    config.data.datasets = config.data.evaluate = ("rendered_heads/procedural",)
    config.optim.update(schedule="cosine", lr=1e-3, warmup=200, weight_decay=0.0, clip=0.0)
    config.ema = 0.999


def _rendered(config: ml_collections.ConfigDict) -> None:
    _scratch(config)
    config.steps, config.save_every, config.eval_every = 4000, 500, 1000


def _rendered_gssl(config: ml_collections.ConfigDict) -> None:
    """Labelled procedural heads, unlabelled ones of another head model; short rounds that start from a trained net."""
    _scratch(config)
    config.data.unlabelled = ("rendered_heads/ict",)
    config.data.evaluate = ("rendered_heads/ict", "rendered_heads/procedural")
    config.optim.lr, config.optim.warmup = 5e-4, 100
    config.steps, config.save_every, config.eval_every = 1000, 250, 5000


def _smoke(config: ml_collections.ConfigDict) -> None:
    _scratch(config)
    config.model.depths, config.model.width, config.model.image_size = (1, 1, 1), 8, 64
    config.data.build_examples = 16
    config.data.dir = os.path.join(tempfile.gettempdir(), f"jaxface-smoke-{os.getuid()}")
    config.optim.warmup = 2
    config.steps, config.batch_size, config.log_every, config.save_every, config.eval_every = 8, 4, 2, 2, 4


_NAMED = {
    "rendered": _rendered,
    "rendered_gssl": _rendered_gssl,
    "gssl_resnet18": _gssl,
    "own": _own,
    "smoke": _smoke,
}
