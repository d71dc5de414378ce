"""Deep3D: a textured 3D head from one image, or from several images of one person, trained without 3D supervision.

python -m launch.prepare --dataset rendered_heads/makehuman_portraits --data_dir data --examples 8000 --size 224
python -m launch.train --config configs/deep3d.py:rendered --workdir work/deep3d

Variants:
    rendered: trains R-Net of the shipped model on rendered images and their landmarks, without coefficients as targets.
    reference: the published size, for converted weights (`--config.head.path=BFM_model_front.mat`) and for training on
        the data set `face_folder`.
    sets: trains C-Net of the shipped model, which combines several images of a person, on top of a trained R-Net
        (`--config.init=work/deep3d`).
    size: trains SizeNet, which predicts the true size of a head, on top of a trained R-Net and on images whose heads
        are known in millimetres.
    smoke: runs in seconds and builds its own data.

Keys beyond those of `jaxface.config`:
    model: see `jaxface.systems.deep3d.model.model_from_config`.
    head: `name` is makehuman (embedded), or ict or bfm with the file in `path`; `crop`, the photometric region, see
        `jaxface.systems.deep3d.face_model.from_front`.
    data: `augment`, strength relative to the published augmentation.
    loss: `attention`, weights of the photometric loss, see `losses.skin_attention` ("none": no skin mask);
        `recognition`, a file of ArcFace weights for the perceptual loss ("": off); `distance`, see
        `losses.landmark_loss`; `num_rendered`, how many images of a device's batch are rendered (0: all); `weights` of
        the terms; `coefficient_weights` within the term "coefficients".
"""

import ml_collections

from jaxface.config import apply_smoke, data_defaults, optim_defaults, run_defaults, variant_config


def get_config(variant: str = "rendered") -> ml_collections.ConfigDict:
    """The configuration of a variant. Raises ValueError for an unknown one."""
    return variant_config(_base(), VARIANTS, variant)


def _base() -> dict:
    return {
        "system": "deep3d",
        "model": {
            "image_size": 224,
            "backbone": "resnet50",
            "width": 64,
            "regressor": "linear",
            "num_dense_points": 0,
            "refine": 0,
            "identity": 0,  # 0: the head's number of identity components
            "expression": 0,
            "albedo": 0,
            "white_light": False,
            "confidence": False,
            "metric_size": False,
            "batch_norm_group": 0,
            "dtype": "float32",
            "remat": False,
        },
        "head": {"name": "makehuman", "path": "", "crop": "tf"},
        "data": data_defaults(datasets=("face_folder",), evaluate=("face_folder",), augment=1.0),
        "loss": {
            "attention": "posterior",
            "recognition": "",
            "distance": "squared",
            "num_rendered": 0,
            "weights": {
                "perceptual": 0.2,
                "photometric": 1.92,
                "coefficients": 3e-4,
                "light": 10.0,
                "landmarks": 1.6e-3,
                "reflectance": 5.0,
                "heat_map": 0.0,
                "points": 0.0,
                "size": 1.0,
            },
            "coefficient_weights": {"identity": 1.0, "expression": 0.8, "albedo": 1.7e-2},
        },
        "optim": optim_defaults(boundaries=(93750,), factor=0.2),
        **run_defaults(steps=187500, batch_size=32, save_every=5000, eval_every=5000),
    }


def _reference(config: ml_collections.ConfigDict) -> None:
    """The public PyTorch code's: 257 coefficients, 20 epochs of 300 k images, Adam, ×0.2 every 10 epochs."""
    config.model.update(identity=80, expression=64, albedo=80)
    config.head.name = "bfm"


def _rendered(config: ml_collections.ConfigDict) -> None:
    """A small net that predicts landmarks and fits the face to them; an eighth of the batch is also rendered."""
    config.model.update(
        image_size=128, backbone="resnet18", width=32, regressor="map_fit", num_dense_points=128, refine=8
    )
    # At inference the shipped detector aligns the crops; its landmarks vary less than those of the published pipeline.
    datasets = ("rendered_heads/makehuman_portraits",)
    config.data.update(datasets=datasets, evaluate=datasets, augment=0.4)
    # Light has a low weight because rendered images have coloured light. Coefficients have a low weight because they
    # are balanced against distances that are not squared.
    config.loss.update(attention="none", distance="plain", num_rendered=2)
    config.loss.weights.update(light=1.0, landmarks=1.0, coefficients=0.01, heat_map=1.0, points=1.0)
    config.loss.coefficient_weights.update(identity=1.0, expression=1.0, albedo=5e-4)
    config.optim.update(
        name="adamw", lr=1.5e-3, schedule="cosine", warmup=100, weight_decay=0.02, clip=5.0, betas=(0.9, 0.99)
    )
    config.update(steps=5500, batch_size=16, ema=0.998, save_every=500, eval_every=2750)


def _sets(config: ml_collections.ConfigDict) -> None:
    """A C-Net on R-Net of `rendered`, trained for 80 steps on sets of images of a person."""
    _rendered(config)
    datasets = ("rendered_sets/makehuman_portraits",)
    config.data.update(datasets=datasets, evaluate=datasets)
    config.model.confidence, config.loss.num_rendered = True, 4
    # Only the confidences are learned. The coefficient prior would favour uninformative images, whose coefficients are
    # the smallest.
    config.loss.weights.coefficients = 0.0
    config.optim.warmup = 20
    config.update(steps=80, batch_size=4, save_every=40, eval_every=40)


def _size(config: ml_collections.ConfigDict) -> None:
    """SizeNet on R-Net of `rendered`; R-Net is fixed."""
    _rendered(config)
    config.model.metric_size = True
    config.optim.update(lr=1e-3, warmup=20, weight_decay=0.1)
    config.update(steps=600, batch_size=16, save_every=200, eval_every=200)


def _smoke(config: ml_collections.ConfigDict) -> None:
    """`rendered` at 64 px with width 8, on 16 examples."""
    _rendered(config)
    apply_smoke(config)
    config.model.update(image_size=64, width=8)
    datasets = ("rendered_heads/makehuman",)
    config.data.update(datasets=datasets, evaluate=datasets)
    config.optim.warmup = 2


VARIANTS = {"rendered": _rendered, "reference": _reference, "sets": _sets, "size": _size, "smoke": _smoke}
