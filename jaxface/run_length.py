"""The length of a run in epochs: what a configuration gives in epochs becomes steps of the actual data and batch.

`epochs` sets `steps`, and `SECTION.KEY_epochs` sets `SECTION.KEY`, each only where the key in steps is unset (0 or
empty). An epoch has as many steps as whole batches fit into the examples of the training data sets; with fewer examples
than a batch, it is that fraction of a step.
"""

from typing import Any

import ml_collections

from jaxface import prepared_data
from jaxface.errors import UserError

# The length of a run, and what else is given in epochs: section, key in epochs, key in steps.
EPOCHS, STEPS = "epochs", "steps"
DERIVED = (
    ("optim", "warmup_epochs", "warmup"),
    ("optim", "boundaries_epochs", "boundaries"),
    ("loss", "pretrain_epochs", "pretrain"),
    ("", "eval_every_epochs", "eval_every"),
)


def resolve(config: ml_collections.ConfigDict, split: str = "train") -> ml_collections.ConfigDict:
    """A copy of `config` in which all keys in steps are set, and `examples` is the number of examples of an epoch.

    Where a data set is not prepared and `examples` is 0, they stay unset: a model can be converted without data.

    Args:
        config: the configuration of a run.
        split: the split of the data sets that do not name one.
    """
    config = config.copy_and_resolve_references()
    examples = config.get("examples", 0) or _count(config, split)
    if "examples" in config:
        config.examples = examples
    return in_steps(config, examples)


def in_steps(config: ml_collections.ConfigDict, examples: int) -> ml_collections.ConfigDict:
    """A copy of `config` whose keys in steps are set for epochs of `examples` examples (0: unknown).

    If `steps` is set, it counts instead of `epochs`; a run of which `min_steps` is longer than its epochs has that
    length. What else is given in epochs is stretched with the run.
    """
    config = config.copy_and_resolve_references()
    epochs, batch_size = config.get(EPOCHS, 0), config.batch_size
    per_epoch = examples // batch_size or examples / batch_size
    if epochs and not config.steps and per_epoch:
        config.steps = max(_rounded(epochs * per_epoch), config.get("min_steps", 0), 1)
    if epochs and config.steps:
        per_epoch = config.steps / epochs
    for name, key, target in DERIVED:
        section = _section(config, name)
        value = section.get(key)
        if value and per_epoch and not section.get(target):
            many = isinstance(value, list | tuple)
            steps = tuple(_rounded(one * per_epoch) for one in (value if many else [value]))
            section[target] = steps if many else max(steps[0], 1)
    return config


def continued(config: ml_collections.ConfigDict, stored: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy of `config` that keeps the steps that its run began with, as its config.json, `stored`, has them.

    A run thus ends as it began if images are added to its data set, or if an earlier version counted its steps in
    another way. They are derived anew if its epochs or its batch size have been changed.
    """
    config = config.copy_and_resolve_references()
    if stored.get("batch_size") != config.batch_size:
        return config
    for name, key, target in (("", EPOCHS, STEPS), *DERIVED):
        section, before = _section(config, name), _section(stored, name)
        derived = section.get(key) and not section.get(target)
        if derived and before.get(target) and before.get(key) in (None, section.get(key)):
            section[target] = before[target]
    return config


def check(config: ml_collections.ConfigDict) -> None:
    """Raises UserError if the run's length is given in epochs, and the size of an epoch is unknown."""
    if config.get(EPOCHS, 0) and not config.steps:
        raise UserError(
            f"config.epochs: {config.epochs:g} epochs of unknown size, because a data set is not prepared in "
            f"{config.data.dir}; prepare it, or set config.steps or config.examples"
        )


def described(config: ml_collections.ConfigDict) -> str:
    """The length of a run for a message, "11760 steps of 16 examples, 59.8 epochs of 3148"."""
    text, examples = f"{config.steps} steps in all, {config.batch_size} examples each", config.get("examples", 0)
    if not examples:
        return text
    return f"{text}: {config.steps * config.batch_size / examples:,.1f} epochs of {examples:,} examples"


def _count(config: ml_collections.ConfigDict, split: str) -> int:
    """Number of examples of all training data sets; 0 if it is not known."""
    data = config.get("data", {})
    names = data.get("datasets") or [name for name in [data.get("dataset")] if name]
    counts = [prepared_data.count_examples(*prepared_data.parse_name(name, split), data.dir) for name in names]
    return sum(counts) if all(counts) else 0


def _section(config: ml_collections.ConfigDict, name: str) -> Any:
    """A section of the configuration, empty if it is missing, or for "" the configuration itself."""
    return config.get(name, {}) if name else config


def _rounded(steps: float) -> int:
    return int(steps + 0.5)
