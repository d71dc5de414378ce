"""The optimizer of `config.optim`: six methods, schedules with warm-up, weight decay masks, learning rate factors."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from jaxface.errors import UserError
from jaxface.system import Tree

SCHEDULES = ("cosine", "constant", "step")
OPTIMIZERS = ("adamw", "adam", "rmsprop", "sgd", "lamb", "lars")
# How the learning rate follows the batch size: not at all, in proportion to it (Goyal et al., "Accurate, Large
# Minibatch SGD", 2017) or to its square root (usual for Adam and LAMB; You et al., 2020).
LR_SCALINGS = ("none", "linear", "sqrt")
DTYPES = ("float32", "bfloat16")
LAMB_EPSILON = 1e-6  # optax.lamb and the paper
TRUST_COEFFICIENT = 1e-3  # of LARS: optax.lars and the paper
RMS_DECAY = 0.99  # PyTorch's default; epsilon is outside the square root as in PyTorch.
UNDECAYED = ("bias", "scale", "gamma")  # Parameters without weight decay, by the last part of their path.


def optimizer(config: ml_collections.ConfigDict, steps: int, batch_size: int) -> optax.GradientTransformation:
    """The optax transformation of `config.optim` for a run of `steps` updates.

    Weight decay is decoupled in adamw and lamb, and part of the gradient in the others, as in PyTorch. It does not
    apply to the parameters named in `UNDECAYED` and to arrays of one axis; nor do the trust ratios of lamb (You et al.,
    2020) and lars (You et al., 2017), which are meant for batches of thousands.

    Args:
        config: `config.optim` with the keys `name` (one of `OPTIMIZERS`); `lr`; `schedule` (cosine, constant or step);
            `warmup` (steps); `weight_decay`; `clip` (maximum global gradient norm, 0: none); `betas` (two; for sgd and
            lars the first is the momentum); `multipliers` (path prefix -> factor on the learning rate); for the
            schedule step `boundaries` (steps) and `factor` (one number, or one for each boundary); and optionally
            `lr_scaling` and `lr_batch_size` (see `peak_rate`) and `first_moment_dtype` (of the stored first moment, or
            momentum: float32 or bfloat16).
        steps: number of updates of the run; 0: not known yet, for a run that only converts or predicts.
        batch_size: global batch size of the run.

    Raises:
        UserError: an unknown name or schedule, a warm-up that is not shorter than the run, or values that do not fit
            together.
    """
    decay = optax.add_decayed_weights(config.weight_decay, mask=decayed) if config.weight_decay else optax.identity()
    decoupled = config.name in ("adamw", "lamb")
    clip = optax.clip_by_global_norm(config.clip) if config.clip else optax.identity()
    groups, rate = scale_groups(config.multipliers), optax.scale_by_learning_rate(schedule(config, steps, batch_size))
    moment_dtype = first_moment_dtype(config)
    if config.name == "lars":
        ratio = optax.masked(optax.scale_by_trust_ratio(trust_coefficient=TRUST_COEFFICIENT), decayed)
        momentum = optax.trace(config.betas[0], accumulator_dtype=moment_dtype)
        return optax.chain(clip, decay, ratio, groups, rate, momentum)
    scaling = _scaling(config.name, *config.betas, moment_dtype)
    ratio = (optax.masked(optax.scale_by_trust_ratio(), decayed),) if config.name == "lamb" else ()
    before, after = (optax.identity(), decay) if decoupled else (decay, optax.identity())
    return optax.chain(clip, before, scaling, after, *ratio, groups, rate)


def first_moment_dtype(config: ml_collections.ConfigDict) -> str | None:
    """The type in which the first moment is stored; None for that of the parameters.

    bfloat16 saves a sixth of the memory of parameters, moments and gradients under Adam. Raises UserError for rmsprop,
    which has no first moment.
    """
    dtype = config.get("first_moment_dtype", "float32")
    if dtype not in DTYPES:
        raise UserError(f"config.optim.first_moment_dtype: unknown {dtype!r}; choose one of {', '.join(DTYPES)}")
    if dtype == "float32":
        return None
    if config.get("name") == "rmsprop":
        raise UserError("config.optim.first_moment_dtype: rmsprop has no first moment; leave it at float32")
    return dtype


def peak_rate(config: ml_collections.ConfigDict, batch_size: int) -> float:
    """The learning rate after the warm-up, at a global batch of `batch_size`.

    `lr` holds for batches of `lr_batch_size`; `lr_scaling` says how it changes with other sizes: "none", "linear", lr *
    (batch_size / lr_batch_size), or "sqrt", lr * sqrt(batch_size / lr_batch_size). Raises UserError if `lr_batch_size`
    is needed and not set.
    """
    scaling, base = config.get("lr_scaling", "none"), config.get("lr_batch_size", 0)
    if scaling not in LR_SCALINGS:
        raise UserError(f"config.optim.lr_scaling: unknown {scaling!r}; choose one of {', '.join(LR_SCALINGS)}")
    if scaling == "none":
        return config.lr
    if not base:
        raise UserError("config.optim.lr_batch_size: 0; set the batch size for which config.optim.lr was chosen")
    return config.lr * (batch_size / base) ** (1.0 if scaling == "linear" else 0.5)


def schedule(config: ml_collections.ConfigDict, steps: int, batch_size: int) -> optax.Schedule:
    """The learning rate by update: linear warm-up from 0 to `peak_rate`, then cosine decay to 0, constant or steps.

    Arguments and errors are those of `optimizer`.
    """
    lr = peak_rate(config, batch_size)
    if config.schedule not in SCHEDULES:
        raise UserError(f"config.optim.schedule: unknown {config.schedule!r}; choose one of {', '.join(SCHEDULES)}")
    steps = steps or config.warmup + 1
    if not 0 <= config.warmup < steps:
        raise UserError(f"config.optim.warmup: {config.warmup} steps are not shorter than the run of {steps}; lower it")
    if config.schedule == "cosine":
        main = optax.cosine_decay_schedule(lr, steps - config.warmup)
    elif config.schedule == "constant":
        main = optax.constant_schedule(lr)
    else:
        factors = np.broadcast_to(config.factor, len(config.boundaries)).tolist()
        decays: dict[int, float] = {}
        for at, factor in zip(config.boundaries, factors, strict=True):
            decays[at - config.warmup] = decays.get(at - config.warmup, 1.0) * factor
        main = optax.piecewise_constant_schedule(lr, decays)
    return optax.join_schedules([optax.linear_schedule(0.0, lr, config.warmup), main], [config.warmup])


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


def _scaling(name: str, first: float, second: float, moment_dtype: str | None) -> optax.GradientTransformation:
    """The method's scaling of gradients, from its two betas and the type of its first moment."""
    if name in ("adamw", "adam"):
        return optax.scale_by_adam(first, second, mu_dtype=moment_dtype)
    if name == "lamb":
        return optax.scale_by_adam(first, second, LAMB_EPSILON, mu_dtype=moment_dtype)
    if name == "rmsprop":
        return optax.scale_by_rms(RMS_DECAY, eps_in_sqrt=False)
    if name == "sgd":
        return optax.trace(first, accumulator_dtype=moment_dtype)
    raise UserError(f"config.optim.name: unknown {name!r}; choose one of {', '.join(OPTIMIZERS)}")
