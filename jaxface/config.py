"""What all configuration files share: the keys of every run with their defaults, and how a variant is chosen.

The files in `configs/` build a nested dict from these functions, add the keys of their system and return it as a
`ConfigDict`. Which keys a system reads beyond these is documented in its configuration file.
"""

import os
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

Variant = Callable[[ml_collections.ConfigDict], None]

SMOKE_STEPS, SMOKE_BATCH_SIZE, SMOKE_SAVE_EVERY, SMOKE_EVAL_EVERY = 8, 4, 2, 4


def run_defaults(**values: Any) -> dict[str, Any]:
    """The top-level keys of a run, with `values` in place of the defaults.

    Keys: `seed`; `steps`, `batch_size` (of all devices together), `accumulate` (micro-batches into which each device
    splits its batch, to need less memory), `save_every` and `eval_every` (steps), which have no
    default; `log_every` (steps); `keep`, the number of newest checkpoints that are kept; `best`, the metric
    "evaluator/name" whose lowest value also keeps its checkpoint ("": none); `ema`, the decay of the parameters' moving
    average (0: none); `backend`, pmap or shard_map; `prefetch`, batches prepared ahead; `resume`, a workdir whose
    training state the run continues from; `init`, a workdir whose parameters it starts from.
    """
    defaults = {
        "seed": 0,
        "accumulate": 1,
        "log_every": 50,
        "keep": 3,
        "best": "",
        "ema": 0.0,
        "backend": "pmap",
        "prefetch": 2,
        "resume": "",
        "init": "",
    }
    return defaults | values


def optim_defaults(**values: Any) -> dict[str, Any]:
    """The section `optim` of a run, with `values` in place of the defaults; keys as in `jaxface.optim.optimizer`.

    The schedule "step" also needs `boundaries` and `factor`.
    """
    defaults = {
        "name": "adam",
        "lr": 1e-4,
        "schedule": "step",
        "warmup": 0,
        "weight_decay": 0.0,
        "clip": 0.0,
        "betas": (0.9, 0.999),
        "multipliers": {},
        **scale_defaults(),
    }
    return defaults | values


def scale_defaults() -> dict[str, Any]:
    """The keys of the section `optim` that only large batches need; see `jaxface.optim.optimizer`.

    `lr_batch_size` is set to the batch size of the configuration file (`variant_config`), so that `lr_scaling` applies
    to a batch size given on the command line.
    """
    return {"lr_scaling": "none", "lr_batch_size": 0, "first_moment_dtype": "float32"}


def data_defaults(**values: Any) -> dict[str, Any]:
    """The section `data` of a run, with `values` in place of the defaults.

    Keys: `dir`, the folder of prepared data sets; `build_examples`: if a generated data set is missing, it is built
    with this number of examples at the start of the run (0: it must be prepared).
    """
    return {"dir": "data", "build_examples": 0} | values


def variant_config(base: Mapping[str, Any], variants: Mapping[str, Variant], name: str) -> ml_collections.ConfigDict:
    """The configuration `base` as changed by the variant `name`. Raises ValueError for an unknown name."""
    if name not in variants:
        raise ValueError(f"unknown variant {name!r}; choose one of {', '.join(variants)}")
    config = ml_collections.ConfigDict(base)
    variants[name](config)
    config.optim.lr_batch_size = config.batch_size
    return config


def apply_smoke(config: ml_collections.ConfigDict, build_examples: int = 16) -> None:
    """Shortens a run to seconds on a data set that it builds itself, in a temporary folder of this user."""
    config.data.build_examples = build_examples
    config.data.dir = os.path.join(tempfile.gettempdir(), f"jaxface-smoke-{os.getuid()}")
    config.update(
        steps=SMOKE_STEPS,
        batch_size=SMOKE_BATCH_SIZE,
        log_every=SMOKE_SAVE_EVERY,
        save_every=SMOKE_SAVE_EVERY,
        eval_every=SMOKE_EVAL_EVERY,
    )
