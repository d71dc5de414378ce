"""PIPNet.

python -m launch.prepare --dataset rendered_heads/makehuman --data_dir data
python -m launch.train --config configs/pipnet.py:rendered --workdir work/pipnet

Variants:
    rendered: a small net, trained from scratch on rendered heads in 18 minutes on one CPU core.
    <data>_<net>: the original's experiments; data is 300w, wflw, cofw, aflw or lapa (`launch.prepare --dataset wflw
        --manual_dir …`), net is resnet18, resnet50, resnet101, mobilenet_v2 or mobilenet_v3.
    gssl_resnet18, rendered_gssl: for `launch.self_train`; with `launch.train`, its first round. The former uses 300-W
        and CelebA, the latter rendered heads.
    own: trains on a folder of your own annotated photos (`landmark_folder`).
    smoke: runs in seconds and builds its own data.

python -m launch.self_train --config configs/pipnet.py:rendered_gssl --workdir work/gssl --round0 work/pipnet \\
    --config.init=work/pipnet --rounds std,cls3,std

python -m launch.prepare --dataset landmark_folder --manual_dir FOLDER --data_dir data
python -m launch.convert --system pipnet --config configs/pipnet.py:own --torch resnet18-5c106cde.pth \\
    --workdir work/resnet18
python -m launch.train --config configs/pipnet.py:own --workdir work/own --config.init=work/resnet18

The original starts from ImageNet weights, here torchvision's. To train from scratch, omit the conversion and
--config.init, and add the weight decay that the original then uses: --config.optim.weight_decay=5e-4.

Keys: `model`, see `jaxface.systems.pipnet.model.model_from_config`; `loss`, see `losses.training_loss`; in `data`:
`unlabelled`, data sets for self-training; `pseudo_labels` and `task`, which self-training sets for each round; `flip`,
the flip map, () for that of the layout or the data set; `eye_corners`, the landmarks whose distance normalises the
error, () for the size of the crop.
"""

import functools

import ml_collections

from jaxface.config import apply_smoke, data_defaults, optim_defaults, run_defaults, variant_config

# Number of landmarks, indices of the outer eye corners (without them, errors are relative to the crop's size).
DATA = {"300w": (68, (36, 45)), "wflw": (98, (60, 72)), "cofw": (29, (8, 9)), "aflw": (19, ()), "lapa": (106, (66, 79))}
NETS = ("resnet18", "resnet50", "resnet101", "mobilenet_v2", "mobilenet_v3")
WFLW_TESTS = ("largepose", "expression", "illumination", "makeup", "occlusion", "blur")
BATCH = 16
OWN_MIN_STEPS = 3000


def get_config(variant: str = "rendered") -> ml_collections.ConfigDict:
    """The configuration of a variant. Raises ValueError for an unknown one."""
    return variant_config(_base(), VARIANTS, variant)


def _base() -> dict:
    """The settings that all experiments of the original share."""
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
            "batch_norm_group": 0,
            "dtype": "float32",
            "remat": False,
        },
        "data": data_defaults(
            datasets=("300w",),
            evaluate=("300w",),
            unlabelled=(),
            pseudo_labels="",
            task="std",
            flip=(),
            eye_corners=(36, 45),
        ),
        "loss": {"map": "l2", "offset": "l1", "map_weight": 10.0, "offset_weight": 1.0},
        "optim": optim_defaults(boundaries=(), factor=0.1),
        **run_defaults(batch_size=BATCH, save_every=1000, eval_every=5000),
    }


def _published(data: str, net: str, config: ml_collections.ConfigDict) -> None:
    """Adam, 60 epochs, learning rate ×0.1 at epochs 30 and 50; MobileNetV3 (author, issue 47): 120, 60 and 100."""
    count, corners = DATA[data]
    config.model.update(backbone=net, landmarks=count, layout=str(count))
    config.data.update(datasets=(data,), evaluate=(data,), eye_corners=corners)
    if data == "300w":
        config.data.evaluate = ("300w", "300w:test_common", "300w:test_challenge")
    if data == "wflw":
        config.data.evaluate = ("wflw", *(f"wflw:test_{subset}" for subset in WFLW_TESTS))
    epochs = (120, 60, 100) if net == "mobilenet_v3" else (60, 30, 50)
    _epochs(config, *epochs)


def _epochs(config: ml_collections.ConfigDict, epochs: int, *boundaries: int) -> None:
    """Sets the length of the run, and when its learning rate decays."""
    config.epochs, config.optim.boundaries_epochs = float(epochs), boundaries


def _gssl(config: ml_collections.ConfigDict) -> None:
    config.data.update(datasets=("300w/gssl",), evaluate=("300w/gssl", "cofw/68", "wflw/68"), unlabelled=("celeba",))
    _epochs(config, 60, 30, 50)


def _own(config: ml_collections.ConfigDict) -> None:
    """The user's own folder; number of landmarks, mean face and flip map come from the prepared data set.

    Few photos are shown more often than in the original: with 60 epochs of 54 photos the heads would learn nothing.
    """
    config.model.update(landmarks=0, layout="own")
    config.data.update(datasets=("landmark_folder",), evaluate=("landmark_folder",), eye_corners=())
    _epochs(config, 60, 30, 50)
    config.min_steps = OWN_MIN_STEPS


def _scratch(config: ml_collections.ConfigDict) -> None:
    """A small net at stride 16 on rendered heads, trained from scratch."""
    config.model.update(backbone="custom", crop="square", depths=(2, 2, 2), width=32, image_size=128, stride=16)
    datasets = ("rendered_heads/makehuman",)
    config.data.update(datasets=datasets, evaluate=datasets)
    config.optim.update(schedule="cosine", lr=1e-3, warmup=200, weight_decay=0.0, clip=0.0)
    config.ema = 0.999


def _rendered(config: ml_collections.ConfigDict) -> None:
    _scratch(config)
    config.update(steps=4000, save_every=500, eval_every=1000)


def _rendered_gssl(config: ml_collections.ConfigDict) -> None:
    """Labelled embedded heads, unlabelled heads of another model; short rounds that start from a trained net."""
    _scratch(config)
    config.data.update(unlabelled=("rendered_heads/ict",), evaluate=("rendered_heads/ict", "rendered_heads/makehuman"))
    config.optim.update(lr=5e-4, warmup=100)
    config.update(steps=1000, save_every=250, eval_every=5000)


def _smoke(config: ml_collections.ConfigDict) -> None:
    _scratch(config)
    apply_smoke(config)
    config.model.update(depths=(1, 1, 1), width=8, image_size=64)
    config.optim.warmup = 2


VARIANTS = {
    "rendered": _rendered,
    **{f"{data}_{net}": functools.partial(_published, data, net) for data in DATA for net in NETS},
    "gssl_resnet18": _gssl,
    "rendered_gssl": _rendered_gssl,
    "own": _own,
    "smoke": _smoke,
}
