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

    Keys:
        seed: of parameters, order and augmentation.
        steps: length of the run; 0: `epochs`, but at least `min_steps`.
        epochs, min_steps: see `jaxface.run_length`.
        examples: number of examples of an epoch; 0: those of the prepared training data sets.
        batch_size: of all devices together; it has no default.
        accumulate: micro-batches into which each device splits its batch, to need less memory.
        log_every, save_every, eval_every: steps between two logs, checkpoints, evaluations; the latter two have no
            default. `eval_every_epochs` gives `eval_every` in epochs.
        keep: number of newest checkpoints that are kept.
        best: metric "evaluator/name" whose lowest value also keeps its checkpoint ("": none).
        ema: decay of the parameters' moving average (0: none).
        backend: pmap or shard_map.
        prefetch: batches prepared ahead.
        input_processes: processes of each host that prepare batches.
        resume: a workdir whose training state the run continues from.
        init: a workdir whose parameters it starts from.
    """
    defaults = {
        "seed": 0,
        "steps": 0,
        "epochs": 0.0,
        "min_steps": 0,
        "examples": 0,
        "accumulate": 1,
        "eval_every_epochs": 0.0,
        "log_every": 50,
        "keep": 3,
        "best": "",
        "ema": 0.0,
        "backend": "pmap",
        "prefetch": 2,
        "input_processes": 1,
        "resume": "",
        "init": "",
    }
    return defaults | values


def optim_defaults(**values: Any) -> dict[str, Any]:
    """The section `optim` of a run, with `values` in place of the defaults; keys as in `jaxface.optim.optimizer`.

    The schedule "step" also needs `boundaries` and `factor`. `warmup_epochs` and `boundaries_epochs` give `warmup` and
    `boundaries` in epochs, where these are unset (`jaxface.run_length`).
    """
    defaults = {
        "name": "adam",
        "lr": 1e-4,
        "schedule": "step",
        "warmup": 0,
        "warmup_epochs": 0.0,
        "boundaries_epochs": (),
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
        epochs=0.0,
        steps=SMOKE_STEPS,
        batch_size=SMOKE_BATCH_SIZE,
        log_every=SMOKE_SAVE_EVERY,
        save_every=SMOKE_SAVE_EVERY,
        eval_every=SMOKE_EVAL_EVERY,
    )
