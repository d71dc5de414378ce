"""The optimizer of `config.optim`: four methods, schedules with warm-up, weight decay masks, learning rate factors."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from jaxface.errors import UserError
from jaxface.system import Tree

SCHEDULES = ("cosine", "constant", "step")
OPTIMIZERS = ("adamw", "adam", "rmsprop", "sgd")
RMS_DECAY = 0.99  # PyTorch's default; epsilon is outside the square root as in PyTorch.
UNDECAYED = ("bias", "scale", "gamma")  # Parameters without weight decay, by the last part of their path.


def optimizer(config: ml_collections.ConfigDict, steps: int) -> optax.GradientTransformation:
    """The optax transformation of `config.optim` for a run of `steps` updates.

    Weight decay is decoupled in adamw and part of the gradient in the others, as in PyTorch. It does not apply to the
    parameters named in `UNDECAYED` and to arrays of one axis.

    Args:
        config: `config.optim` with the keys `name` (adamw, adam, rmsprop or sgd); `lr`; `schedule` (cosine, constant or
            step); `warmup` (steps); `weight_decay`; `clip` (maximum global gradient norm, 0: none); `betas` (two; for
            sgd the first is the momentum); `multipliers` (path prefix -> factor on the learning rate); and for the
            schedule step `boundaries` (steps) and `factor` (one number, or one for each boundary).
        steps: number of updates of the run.

    Raises:
        UserError: an unknown name or schedule, or a warm-up that is not shorter than the run.
    """
    decay = optax.add_decayed_weights(config.weight_decay, mask=decayed) if config.weight_decay else optax.identity()
    decoupled = config.name == "adamw"
    return optax.chain(
        optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(),
        optax.identity() if decoupled else decay,
        _scaling(config.name, *config.betas),
        decay if decoupled else optax.identity(),
        scale_groups(config.multipliers),
        optax.scale_by_learning_rate(schedule(config, steps)),
    )


def schedule(config: ml_collections.ConfigDict, steps: int) -> optax.Schedule:
    """The learning rate by update: linear warm-up from 0 to `lr`, then cosine decay to 0, constant or step decay.

    Arguments and errors are those of `optimizer`.
    """
    if config.schedule not in SCHEDULES:
        raise UserError(f"config.optim.schedule: unknown {config.schedule!r}; choose one of {', '.join(SCHEDULES)}")
    if not 0 <= config.warmup < steps:
        raise UserError(f"config.optim.warmup: {config.warmup} steps are not shorter than the run of {steps}; lower it")
    if config.schedule == "cosine":
        main = optax.cosine_decay_schedule(config.lr, steps - config.warmup)
    elif config.schedule == "constant":
        main = optax.constant_schedule(config.lr)
    else:
        factors = np.broadcast_to(config.factor, len(config.boundaries)).tolist()
        decays = {at - config.warmup: factor for at, factor in zip(config.boundaries, factors, strict=True)}
        main = optax.piecewise_constant_schedule(config.lr, decays)
    return optax.join_schedules([optax.linear_schedule(0.0, config.lr, config.warmup), main], [config.warmup])


def decayed(params: Tree) -> Tree:
    """A tree of bools: True for the arrays that weight decay applies to."""

    def applies(path: tuple, leaf: jax.Array) -> bool:
        return leaf.ndim > 1 and path[-1].key not in UNDECAYED

    return jax.tree_util.tree_map_with_path(applies, params)


def scale_groups(multipliers: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiplies the updates below each path prefix ("encoder", "encoder/stem") by its factor.

    Of several matching prefixes the longest applies. Initialisation raises UserError for a prefix of no parameter.
    """
    prefixes = sorted(multipliers, key=len, reverse=True)

    def prefix_of(path: tuple) -> str | None:
        name = jax.tree_util.keystr(path, simple=True, separator="/") + "/"
        return next((prefix for prefix in prefixes if name.startswith(prefix + "/")), None)

    def init(params: Tree) -> optax.EmptyState:
        used = {prefix_of(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]}
        for prefix in prefixes:
            if prefix not in used:
                raise UserError(
                    f"config.optim.multipliers: no parameter is below {prefix!r}; the top level has {list(params)}"
                )
        return optax.EmptyState()

    def update(updates: Tree, state: optax.EmptyState, params: Tree | None = None) -> tuple[Tree, optax.EmptyState]:
        del params

        def scale(path: tuple, leaf: jax.Array) -> jax.Array:
            prefix = prefix_of(path)
            return leaf if prefix is None else leaf * jnp.asarray(multipliers[prefix], leaf.dtype)

        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformation(init, update)


def _scaling(name: str, first: float, second: float) -> optax.GradientTransformation:
    """The method's scaling of gradients, from its two betas."""
    if name in ("adamw", "adam"):
        return optax.scale_by_adam(first, second)
    if name == "rmsprop":
        return optax.scale_by_rms(RMS_DECAY, eps_in_sqrt=False)
    if name == "sgd":
        return optax.trace(first)
    raise UserError(f"config.optim.name: unknown {name!r}; choose one of {', '.join(OPTIMIZERS)}")
