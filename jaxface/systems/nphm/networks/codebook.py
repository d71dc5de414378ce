"""Codes of an auto-decoder: one row per subject or scan, of which a step touches those in its batch.

Semantics of PyTorch's `Embedding(max_norm=…, sparse=True)` under `SparseAdam`, which the reference trains with.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax

from jaxface import optim
from jaxface.system import Tree

MAX_NORM = 1.0
NORM_EPSILON = 1e-7
CLIP_EPSILON = 1e-6
BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8


class RowsState(NamedTuple):
    """Number of updates, and Adam's two moments of every table."""

    count: jax.Array
    first: Tree
    second: Tree


def look_up(table: jax.Array, rows: jax.Array) -> jax.Array:
    """The codes (B,D) of `rows` (B,) int, none longer than `MAX_NORM`.

    A row is cut before the loss and the cut is no part of the gradient; `rows_adam` makes it last.
    """
    chosen = table[rows]
    return chosen + jax.lax.stop_gradient(_cut(chosen) - chosen)


def rows_adam(learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """Adam on the rows that have a gradient; the others keep value and moments. The bias correction counts all steps.

    Touched rows are first cut to `MAX_NORM`, as the look-up saw them. A row is touched where its gradient is not
    exactly zero: that holds after the mean over devices as well.
    """

    def init(tables: Tree) -> RowsState:
        return RowsState(jnp.zeros((), jnp.int32), *(jax.tree.map(jnp.zeros_like, tables) for _ in range(2)))

    def update(gradients: Tree, state: RowsState, tables: Tree) -> tuple[Tree, RowsState]:
        count = state.count + 1
        touched = jax.tree.map(lambda gradient: (gradient != 0).any(-1, keepdims=True), gradients)

        def moment(beta: float, kept: Tree, new: Tree) -> Tree:
            mix = lambda touched, old, new: jnp.where(touched, beta * old + (1 - beta) * new, old)  # noqa: E731
            return jax.tree.map(mix, touched, kept, new)

        first = moment(BETAS[0], state.first, gradients)
        second = moment(BETAS[1], state.second, jax.tree.map(jnp.square, gradients))
        corrections = [1 - beta ** count.astype(jnp.float32) for beta in BETAS]
        size = learning_rate(state.count) * jnp.sqrt(corrections[1]) / corrections[0]

        def moved(touched: jax.Array, table: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
            change = _cut(table) - table - size * first / (jnp.sqrt(second) + ADAM_EPSILON)
            return jnp.where(touched, change, 0.0)

        return jax.tree.map(moved, touched, tables, first, second), RowsState(count, first, second)

    return optax.GradientTransformation(init, update)


def clip_norm(limit: float) -> optax.GradientTransformation:
    """Gradients scaled to a global norm of at most `limit`, as PyTorch does it (1e-6 is added to the norm)."""

    def update(gradients: Tree, state: optax.EmptyState, params: Tree | None = None) -> tuple[Tree, optax.EmptyState]:
        del params
        scale = jnp.minimum(1.0, limit / (optax.global_norm(gradients) + CLIP_EPSILON))
        return jax.tree.map(lambda leaf: scale * leaf, gradients), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def optimizer(config: ml_collections.ConfigDict, steps: int) -> optax.GradientTransformation:
    """AdamW for the networks, `rows_adam` for the entry "codes", each with its gradients clipped by themselves.

    Keys of `config.optim`: `lr`, `code_lr`, `weight_decay`, `clip`, and those of the schedule that both follow
    (`jaxface.optim.schedule`).
    """
    schedule = optim.schedule(config, steps)
    networks = optax.chain(
        clip_norm(config.clip),
        optax.scale_by_adam(*BETAS, eps=ADAM_EPSILON),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(schedule),
    )
    codes = optax.chain(clip_norm(config.clip), rows_adam(lambda step: schedule(step) * (config.code_lr / config.lr)))

    def group(params: Tree) -> dict[str, str]:
        return {name: "codes" if name == "codes" else "networks" for name in params}

    return optax.multi_transform({"networks": networks, "codes": codes}, group)


def _cut(rows: jax.Array) -> jax.Array:
    norm = jnp.linalg.norm(rows, axis=-1, keepdims=True)
    return rows * jnp.where(norm > MAX_NORM, MAX_NORM / (norm + NORM_EPSILON), 1.0)
