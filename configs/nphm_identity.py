"""NPHM's identity model (phase 1): signed distances of heads in a neutral expression, with a latent code per person.

python -m launch.prepare --dataset head_sdf/ict --data_dir data --manual_dir DIR_OF_ICT_FACEKIT
python -m launch.train --config configs/nphm_identity.py:ict --workdir work/nphm_identity

Variants:
    ict, makehuman: a reduced model, trained on generated heads.
    own: the reduced model on the user's scans (launch.fit --register --training_set).
    reference: the published model on the NPHM data set.
    npm: the paper's baseline, one MLP.
    smoke: runs in seconds and builds its own data.

`model.anchors`, the mean anchors, and `model.codes`, the number of people, are read from the prepared data set.
`model.code` is the code length of `npm`. `model.chunk` > 0 processes that many points of a person at a time with
gradient checkpointing, for devices whose memory a batch exceeds. `model.dtype` ("float32" or "bfloat16") is the type of
the networks' hidden values in training, `model.remat` recomputes them layer by layer for the gradient; positions,
distances and everything after the training are float32. A batch is divided among the
devices by examples: with more devices than people, give each person several examples of fewer points, e.g.
--config.batch_size=512 --config.data.face=47 --config.data.nonface=4.
"""

import functools

import ml_collections

from jaxface.config import apply_smoke, data_defaults, run_defaults, scale_defaults, variant_config


def get_config(variant: str = "ict") -> ml_collections.ConfigDict:
    """The configuration of a variant. Raises ValueError for an unknown one."""
    return variant_config(_base(), VARIANTS, variant)


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
            "dtype": "float32",
            "remat": False,
            "replicate_last_point_bug": False,
        },
        "data": data_defaults(dataset="nphm", evaluate=("nphm",), face=750, nonface=50, near_surface_stride=1),
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
            **scale_defaults(),
        },
        "validation": {"steps": 200, "lr": 0.01},
        "fit": {
            "steps": 1000,
            "points": 5000,
            "face_share": 0.0,
            "resolution": 256,
            "method": "broyden",
            "schedule": "official",
        },
        **run_defaults(steps=120000, batch_size=32, log_every=100, save_every=2000, eval_every=20000),
    }


def _generated(dataset: str, config: ml_collections.ConfigDict) -> None:
    """For two CPU cores: narrow member networks, few points of many people, a learning rate that decays to zero."""
    config.data.update(dataset=dataset, evaluate=(dataset,), face=96, nonface=32, near_surface_stride=4)
    config.model.update(width=48, narrow_skip=False, local_code=16, position_width=128)
    config.loss.update(code=1e-3, symmetry=1e-3)
    config.optim.update(lr=1.5e-3, code_lr=4e-3, clip=1.0, weight_decay=0.0, schedule="cosine", warmup=100)
    config.validation.update(steps=60, lr=0.02)
    config.fit.update(points=2000, face_share=0.75, resolution=128, steps=500, schedule="late_truncation")
    config.update(steps=4000, batch_size=16, eval_every=4000, save_every=400, ema=0.998)


def _npm(config: ml_collections.ConfigDict) -> None:
    config.model.update(kind="single", width=1024, layers=8)
    config.loss.code, config.optim.weight_decay = 0.002, 0.02
    config.steps = 62000


def _smoke(config: ml_collections.ConfigDict) -> None:
    _generated("head_sdf/makehuman", config)
    apply_smoke(config, build_examples=4)
    config.model.update(width=8, layers=2, position_width=8, global_code=8, local_code=4)
    config.data.update(face=16, nonface=8)
    config.optim.warmup, config.validation.steps = 2, 2
    config.fit.update(steps=4, points=64, resolution=24)


VARIANTS = {
    "ict": functools.partial(_generated, "head_sdf/ict"),
    "makehuman": functools.partial(_generated, "head_sdf/makehuman"),
    "own": functools.partial(_generated, "nphm"),
    "reference": lambda config: None,
    "npm": _npm,
    "smoke": _smoke,
}
