"""Codebook of an auto-decoder: one latent code per subject or scan, with sparse updates.

Reproduces PyTorch's `Embedding(max_norm=…, sparse=True)` under `SparseAdam`, with which the official code trains.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax

from jaxface import optim
from jaxface.system import Tree

MAX_NORM = 1.0
# Added to norms by torch.nn.Embedding and torch.nn.utils.clip_grad_norm_.
NORM_EPSILON = 1e-7
CLIP_EPSILON = 1e-6
BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8


class SparseAdamState(NamedTuple):
    """Number of updates, and Adam's first and second moments of every table."""

    count: jax.Array
    first: Tree
    second: Tree


def look_up(table: jax.Array, rows: jax.Array) -> jax.Array:
    """Codes (B,D) of `rows` (B,) int of a table (R,D), with norms limited to `MAX_NORM`.

    The renormalisation is not differentiated (straight-through), as in PyTorch; `sparse_adam` writes it to the table.
    """
    chosen = table[rows]
    return chosen + jax.lax.stop_gradient(_limit_norm(chosen) - chosen)


def sparse_adam(learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """Adam on the rows that have a gradient; other rows keep value and moments. Bias correction counts all steps.

    Rows with a gradient are first limited to `MAX_NORM`, as in `look_up`. A row counts as having a gradient if that is
    not exactly zero, which averaging over devices preserves. The epsilon is added before the bias correction
    (torch.optim.SparseAdam).
    """

    def init(tables: Tree) -> SparseAdamState:
        zeros = [jax.tree.map(jnp.zeros_like, tables) for _ in range(2)]
        return SparseAdamState(jnp.zeros((), jnp.int32), *zeros)

    def update(gradients: Tree, state: SparseAdamState, tables: Tree) -> tuple[Tree, SparseAdamState]:
        count = state.count + 1
        active = jax.tree.map(lambda gradient: (gradient != 0).any(-1, keepdims=True), gradients)

        def moment(beta: float, previous: Tree, values: Tree) -> Tree:
            mix = lambda active, old, new: jnp.where(active, beta * old + (1 - beta) * new, old)  # noqa: E731
            return jax.tree.map(mix, active, previous, values)

        first = moment(BETAS[0], state.first, gradients)
        second = moment(BETAS[1], state.second, jax.tree.map(jnp.square, gradients))
        corrections = [1 - beta ** count.astype(jnp.float32) for beta in BETAS]
        size = learning_rate(state.count) * jnp.sqrt(corrections[1]) / corrections[0]

        def change(active: jax.Array, table: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
            step = _limit_norm(table) - table - size * first / (jnp.sqrt(second) + ADAM_EPSILON)
            return jnp.where(active, step, 0.0)

        return jax.tree.map(change, active, tables, first, second), SparseAdamState(count, first, second)

    return optax.GradientTransformation(init, update)


def clip_norm(limit: float) -> optax.GradientTransformation:
    """Clips the global gradient norm to `limit` as torch.nn.utils.clip_grad_norm_ does (1e-6 is added to the norm)."""

    def update(gradients: Tree, state: optax.EmptyState, params: Tree | None = None) -> tuple[Tree, optax.EmptyState]:
        del params
        scale = jnp.minimum(1.0, limit / (optax.global_norm(gradients) + CLIP_EPSILON))
        return jax.tree.map(lambda leaf: scale * leaf, gradients), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def optimizer(config: ml_collections.ConfigDict, steps: int, batch_size: int) -> optax.GradientTransformation:
    """AdamW for the networks and `sparse_adam` for the entry "codes", each with its own gradient clipping.

    Keys of `config` (`config.optim`): `lr`, `code_lr`, `weight_decay`, `clip`, those of the learning-rate schedule that
    both follow (`jaxface.optim.schedule`, with its arguments), and `first_moment_dtype` of the networks.
    """
    schedule = optim.schedule(config, steps, batch_size)
    networks = optax.chain(
        clip_norm(config.clip),
        optax.scale_by_adam(*BETAS, eps=ADAM_EPSILON, mu_dtype=optim.first_moment_dtype(config)),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(schedule),
    )
    codes = optax.chain(clip_norm(config.clip), sparse_adam(lambda step: schedule(step) * (config.code_lr / config.lr)))

    def group(params: Tree) -> dict[str, str]:
        return {name: "codes" if name == "codes" else "networks" for name in params}

    return optax.multi_transform({"networks": networks, "codes": codes}, group)


def _limit_norm(rows: jax.Array) -> jax.Array:
    norm = jnp.linalg.norm(rows, axis=-1, keepdims=True)
    return rows * jnp.where(norm > MAX_NORM, MAX_NORM / (norm + NORM_EPSILON), 1.0)
