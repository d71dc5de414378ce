"""Continuous landmark detection with 3D queries.

python -m launch.prepare --dataset rendered_heads/makehuman --data_dir data
python -m launch.train --config configs/continuous.py:rendered --workdir work/continuous

Variants:
    rendered: prepared images of two head models; first stage of the shipped model.
    endless: renders every batch inside the training step, an equal share from each head of `config.head.names`, some
        with beards, hair in front of the face, glasses, hats, masks, hands, microphones and headphones; last stage of
        the shipped model. It names no test sets: set `config.data.evaluate`, for example to
        '("rendered_heads/makehuman",)', to evaluate the run.
    mixed: the paper's size at 224 px on annotated photos of several layouts and rendered heads, mixed by
        `config.data.shares`; evaluated with the annotated and with the detector's boxes.
    own: fine-tunes the shipped model on a folder of your own annotated photos (`landmark_folder`), in a few minutes on
        two CPU cores. Your landmarks may have any layout: where they lie on the template is found before the training
        starts.
    quick: fine-tunes the shipped model for two to four minutes on two CPU cores, for the quickstart.
    convnext_tiny, convnext_small: the paper's size at 224 px.
    unofficial_mlp, unofficial_transformer: the layout of the PyTorch reimplementation florisdf/continuous_landmarks,
        to load its weights.
    smoke: runs in seconds and prepares its own data.
"""

import functools
import pathlib

import ml_collections

import jaxface
from jaxface.config import apply_smoke, data_defaults, optim_defaults, run_defaults, variant_config

SHIPPED_MODEL = pathlib.Path(jaxface.__file__).parent / "assets" / "continuous"
# Every region of the embedded head that is part of it, and the joints inside it.
REGIONS = (
    "face", "ears", "neck", "scalp", "mouth", "teeth", "tongue", "eyeball_L", "eyeball_R", "iris_L", "iris_R", "joints",
)  # fmt: skip
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def get_config(variant: str = "rendered") -> ml_collections.ConfigDict:
    """The configuration of a variant. Raises ValueError for an unknown one."""
    return variant_config(_base(), VARIANTS, variant)


def _base() -> dict:
    """The keys of every variant, besides those of `jaxface.config`.

    model: see `jaxface.systems.continuous.model.model_from_config`.
    head: with data.endless, `names` of the head models to render (`jaxface.heads.sources`), `path`, the folder of their
        files ("" if the package contains them), and `backgrounds`, a folder of photos without faces of which parts are
        backgrounds ("" for none).
    data: `datasets` to train on; `shares`, one number for each, how often their examples are taken (() for equal
        shares); `evaluate`, the test sets "NAME[:SPLIT][@detector]", with "@detector" in the boxes of the face detector
        instead of the annotated ones; `num_surface_samples`, the random surface points of an example with dense labels
        besides its landmarks; `regions`, those of the template that dense labels cover and that the model answers: with
        `endless` their points are rendered, half of them on the face; prepared data sets cover the face; `offsets`,
        whether each data set learns small offsets of its template points, which absorb the differences between
        conventions; `deformer`, whether a network learns them for every point of the template (Infinite 3D Landmarks);
        `endless`, whether the training step renders its images.
    layouts: for each data set its layout or the template points of its landmarks; filled in when a run starts.
    loss: `warmup`, the steps in which points and sigma are decoupled; `attention`, the weight of the heat-map loss;
        `offsets`, that of the mean squared offset or displacement by the deformer; `displacement`, that of the mean
        squared displacement of canonical 3D points.
    """
    return {
        "system": "continuous",
        "model": _shipped_model(),
        "head": {"names": ("makehuman",), "path": "", "backgrounds": ""},
        "data": data_defaults(
            datasets=("rendered_heads/makehuman",),
            evaluate=("rendered_heads/makehuman",),
            shares=(),
            num_surface_samples=64,
            regions=("face",),
            offsets=False,
            deformer=False,
            endless=False,
        ),
        "layouts": {},
        "loss": {"warmup": 3000, "attention": 1.0, "offsets": 1e-2, "displacement": 1e-3},
        "optim": optim_defaults(
            name="adamw", lr=1e-3, schedule="cosine", warmup=200, weight_decay=0.02, clip=1.0, betas=(0.9, 0.99)
        ),
        **run_defaults(steps=7500, batch_size=16, save_every=500, eval_every=2000, ema=0.999),
    }


def _shipped_model() -> dict:
    """The shipped detector: 2.4 M parameters at 128 px."""
    return {
        "image_size": 128,
        "encoder": "custom",
        "depths": (1, 2, 6, 2),
        "dims": (32, 64, 128, 256),
        "dtype": "float32",
        "remat": False,
        "final_norm": True,
        "drop_path": 0.0,
        "layer_scale": 1.0,
        "pool": "map",
        "feature_width": 96,
        "query_width": 64,
        "fourier_bands": 4,
        "predictor": "soft_argmax",
        "width": 256,
        "layers": 2,
        "heads": 8,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "sigma": "log",
        "normaliser": False,
        "output": "image",
        "sigma_scale": 1.0,
        "mirror": True,
        "template": "makehuman",
    }


def _paper_model(encoder: str) -> dict:
    """The published size: ConvNeXt with 768 features at 224 px, queries of width 64, four layers of width 512."""
    return {
        **_shipped_model(),
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
        "template": "other",
        "predictor": predictor,
        "width": 512 if predictor == "mlp" else 768,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.2, 0.2, 0.2),
        "sigma": "variance",
    }


def _rendered(config: ml_collections.ConfigDict) -> None:
    datasets = ("rendered_heads/makehuman", "rendered_heads/ict")
    config.data.update(datasets=datasets, evaluate=datasets)


def _mixed(config: ml_collections.ConfigDict) -> None:
    _convnext("convnext_tiny", config)
    photos = {"300w": 2, "wflw": 2, "cofw": 1, "aflw": 2, "lapa": 2, "w300lp": 2}
    rendered = {"rendered_heads/makehuman": 3}
    config.data.update(datasets=(*photos, *rendered), shares=(*photos.values(), *rendered.values()))
    config.data.update(num_surface_samples=256, offsets=True)
    tests = ("300w", "300w:test_common", "300w:test_challenge", "wflw", "cofw", "aflw", "lapa")
    config.data.evaluate = (*tests, "300w@detector", "wflw@detector", *rendered)


def _own(config: ml_collections.ConfigDict) -> None:
    _quick(config)
    config.optim.lr = 1e-4
    config.data.update(datasets=("landmark_folder",), evaluate=("landmark_folder",))


def _quick(config: ml_collections.ConfigDict) -> None:
    config.init = str(SHIPPED_MODEL)
    config.optim.update(lr=2e-4, warmup=20)
    config.loss.warmup, config.ema = 0, 0.98
    config.data.regions = REGIONS
    config.update(steps=200, batch_size=16, eval_every=200, save_every=100)


def _endless(config: ml_collections.ConfigDict) -> None:
    config.data.update(endless=True, datasets=(), evaluate=(), regions=REGIONS)


def _convnext(encoder: str, config: ml_collections.ConfigDict) -> None:
    config.model = _paper_model(encoder)
    config.optim.update(lr=5e-4, weight_decay=0.05, betas=(0.9, 0.95), warmup=1000)
    config.optim.multipliers = {"encoder": 0.25}
    config.loss.warmup = 2000
    config.update(steps=60000, batch_size=512, ema=0.9998)


def _unofficial(predictor: str, config: ml_collections.ConfigDict) -> None:
    config.model = _unofficial_model(predictor)
    config.optim.update(lr=1e-4, weight_decay=0.0, betas=(0.95, 0.999), schedule="constant", warmup=100, clip=0.0)
    config.update(batch_size=64, ema=0.0)


def _smoke(config: ml_collections.ConfigDict) -> None:
    apply_smoke(config)
    config.model.update(image_size=64, depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), feature_width=32, width=32)
    config.data.num_surface_samples = 8
    config.optim.warmup, config.loss.warmup = 2, 4


VARIANTS = {
    "rendered": _rendered,
    "mixed": _mixed,
    "own": _own,
    "quick": _quick,
    "endless": _endless,
    "convnext_tiny": functools.partial(_convnext, "convnext_tiny"),
    "convnext_small": functools.partial(_convnext, "convnext_small"),
    "unofficial_mlp": functools.partial(_unofficial, "mlp"),
    "unofficial_transformer": functools.partial(_unofficial, "transformer"),
    "smoke": _smoke,
}
