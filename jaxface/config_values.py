"""Ranges and choices of configuration values, declared as tables {"section.key": rule} and checked in one place.

Every system has such a table, `VALUES`, which its `resolve` passes to `check`. The keys that all systems share are
declared here. What holds between several keys is checked where the keys are used.
"""

import dataclasses
import math
import numbers
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

from jaxface import storage
from jaxface.errors import UserError, is_remote

MAX_SHOWN_CHARS = 80
LARGEST_INTEGER, LARGEST_FLOAT = 2**31 - 1, sys.float_info.max


@dataclasses.dataclass(frozen=True)
class Rule:
    """A condition on a value, and its description in a message: "an integer of at least 1"."""

    holds: Callable[[Any], bool]
    expected: str


def integer(low: int, high: int = LARGEST_INTEGER) -> Rule:
    """An integer in [low, high]."""
    described = f"of at least {low}" if high == LARGEST_INTEGER else f"from {low} to {high}"
    return Rule(lambda value: _is_number(value, numbers.Integral) and low <= value <= high, f"an integer {described}")


def number(low: float = -math.inf, high: float = math.inf) -> Rule:
    """A finite number in [low, high]."""
    bounds = [f"at least {low:g}"] * (low > -math.inf) + [f"at most {high:g}"] * (high < math.inf)
    described = f"a finite number {'of ' if bounds else ''}{' and '.join(bounds)}".strip()
    return Rule(lambda value: _is_number(value, numbers.Real) and low <= value <= high, described)


def positive(high: float = math.inf) -> Rule:
    """A finite number in (0, high]."""
    upper = f" and at most {high:g}" if high < math.inf else ""
    return Rule(lambda value: _is_number(value, numbers.Real) and 0 < value <= high, f"a number above 0{upper}")


def choice(*allowed: str | int) -> Rule:
    """One of the given names or numbers."""
    return Rule(lambda value: type(value) in (str, int) and value in allowed, f"one of {', '.join(map(str, allowed))}")


def sequence(rule: Rule, *lengths: int, least: int = 0) -> Rule:
    """A list or tuple of values that follow `rule`, of one of `lengths` (default: any from `least`)."""
    described = f"{' or '.join(map(str, lengths))} values" if lengths else "values"
    described += f" (at least {least})" if least else ""

    def holds(value: Any) -> bool:
        fits = isinstance(value, list | tuple) and len(value) >= least and (not lengths or len(value) in lengths)
        return fits and all(map(rule.holds, value))

    return Rule(holds, f"a sequence of {described}, each {rule.expected}")


def section(rule: Rule) -> Rule:
    """A section with keys of any names, whose values follow `rule`."""

    def holds(value: Any) -> bool:
        return isinstance(value, Mapping | ml_collections.ConfigDict) and all(map(rule.holds, value.values()))

    return Rule(holds, f"a section of keys, each {rule.expected}")


def either(*rules: Rule) -> Rule:
    """A value that follows one of the rules."""

    def holds(value: Any) -> bool:
        return any(rule.holds(value) for rule in rules)

    return Rule(holds, " or ".join(rule.expected for rule in rules))


FLAG = Rule(lambda value: isinstance(value, bool), "True or False")
SECTION = Rule(lambda value: isinstance(value, Mapping | ml_collections.ConfigDict), "a section of keys")
TEXT = Rule(lambda value: isinstance(value, str) and "\0" not in value and _is_encodable(value), "a text")
PATH = Rule(
    lambda value: TEXT.holds(value) and not is_remote(value),
    "a path of this machine; mount a bucket to use a folder in it",
)
FOLDER = Rule(
    lambda value: TEXT.holds(value) and (not is_remote(value) or value.lower().startswith(storage.SCHEME)),
    "a path of this machine or gs://BUCKET/FOLDER",
)
NAME = Rule(lambda value: isinstance(value, str) and bool(value.strip("\0 ")), "a name")
NAMES = sequence(NAME)
COUNT = integer(0)  # 0: none, or as many as the data have
SIZE = integer(1, 2**20)  # widths and numbers of layers
IMAGE_SIZE = integer(16, 4096)
WEIGHT = number(0.0)
DTYPE = choice("float32", "bfloat16")
SHARE = number(0.0, 1.0)
RGB = sequence(number(), 3)
RGB_SCALE = sequence(positive(), 3)

_SHARED = {
    "seed": integer(0),
    "steps": COUNT,
    "epochs": WEIGHT,
    "min_steps": COUNT,
    "examples": COUNT,
    "batch_size": integer(1),
    "accumulate": integer(1),
    "log_every": COUNT,
    "save_every": COUNT,
    "eval_every": COUNT,
    "eval_every_epochs": WEIGHT,
    "keep": integer(1),
    "best": TEXT,
    "ema": number(0.0, 0.999999),
    "backend": choice("pmap", "shard_map"),
    "prefetch": COUNT,
    "input_processes": integer(1),
    "resume": FOLDER,
    "init": FOLDER,
    "model.dtype": DTYPE,
    "model.remat": FLAG,
    "optim.name": choice("adamw", "adam", "rmsprop", "sgd", "lamb", "lars"),
    "optim.lr": positive(),
    "optim.lr_scaling": choice("none", "linear", "sqrt"),
    "optim.lr_batch_size": COUNT,
    "optim.first_moment_dtype": DTYPE,
    "optim.schedule": choice("cosine", "constant", "step"),
    "optim.warmup": COUNT,
    "optim.warmup_epochs": WEIGHT,
    "optim.boundaries_epochs": sequence(WEIGHT),
    "optim.weight_decay": WEIGHT,
    "optim.clip": WEIGHT,
    "optim.betas": sequence(number(0.0, 0.999999), 2),
    "optim.multipliers": section(WEIGHT),
    "optim.boundaries": sequence(COUNT),
    "optim.factor": either(positive(), sequence(positive(), least=1)),
    "data.dir": Rule(lambda value: FOLDER.holds(value) and NAME.holds(value), FOLDER.expected),
    "data.build_examples": COUNT,
    "data.datasets": NAMES,
    "data.evaluate": NAMES,
}


def check(config: ml_collections.ConfigDict, values: Mapping[str, Rule]) -> None:
    """Raises UserError for the first value of `config` that breaks its rule, or that of a key of all systems.

    Keys that the configuration lacks are not its concern: `jaxface.system` reports those that are read.

    Args:
        config: a configuration.
        values: rules by dotted key.
    """
    for key, rule in {**_SHARED, **values}.items():
        value, found = config, True
        for part in key.split("."):
            if not isinstance(value, ml_collections.ConfigDict):
                prefix = key.partition(".")[0]
                raise UserError(f"config.{prefix}: {_shown(value)} is not a section of keys; copy it from configs/")
            found = part in value
            if not found:
                break
            value = value[part]
        if found and not rule.holds(value):
            raise UserError(f"config.{key}: {_shown(value)} cannot be used; give {rule.expected}")


def rules(values: Mapping[str, Rule]) -> dict[str, Rule]:
    """All rules of a system by key, with those that all systems share."""
    return {**_SHARED, **values}


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and -LARGEST_FLOAT <= value <= LARGEST_FLOAT


def _is_encodable(text: str) -> bool:
    """Whether a file may have the name: half of a surrogate pair cannot be written."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}…"
