"""The one interface between a system and the rest of the house: frozen dataclasses of functions.

B is the per-device batch; trees are plain nested dicts of arrays; all arrays are float32 unless said.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.struct
import jax
import numpy as np
import optax

Tree = Any
Batch = dict[str, Any]


@flax.struct.dataclass
class TrainState:
    """What is saved and restored: a plain pytree with no functions and no random key.

    `step` is an int32 scalar, the number of updates done. `ema` has the shape of `params`, or is `{}` where none is
    kept.
    """

    step: jax.Array
    params: Tree
    extra: Tree
    opt_state: Tree
    ema: Tree


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """One data set and how to score it.

    `data()` yields host-local numpy batches, the same number on every host, the last one padded; bool `mask` (B,).
    `predict(params, extra, batch, frozen)` runs on one device and returns per-example arrays (leading axis B); the
    first few of an array named "picture" (B,H,W,3) are shown in TensorBoard, it is not given to `summarise`.
    `summarise(arrays)` gets all examples of all hosts once, padding removed, and returns named floats.
    `every` is the number of training steps between two evaluations.
    """

    data: Callable[[], Iterator[Batch]]
    predict: Callable[[Tree, Tree, Batch, Tree], dict[str, jax.Array]]
    summarise: Callable[[dict[str, np.ndarray]], dict[str, float]]
    every: int


def _nothing_frozen() -> Tree:
    return {}


def _unchanged(batch: Batch, key: jax.Array, frozen: Tree) -> Batch:
    del key, frozen
    return batch


def _as_it_is(params: Tree, extra: Tree) -> tuple[Tree, Tree]:
    return params, extra


@dataclasses.dataclass(frozen=True)
class System:
    """A system as functions; `jaxface.systems.<name>.build(config)` makes one.

    init(key) -> (params, extra): fresh parameters; `extra` holds batch statistics or `{}`.
    loss(params, extra, batch, key, step, frozen) -> (scalar, (extra, metrics)): on one device, metrics are scalars.
    optimizer: one optax transformation.
    train_data(step) -> endless iterator of host-local numpy batches, beginning with the batch of `step`.
    evaluators: by name.
    predict(params, extra, photo, **options): a photo, points or a scan in, a named result out.
    predict_set(params, extra, photos, boxes, **options): several photos of one person in, a result for each out.
    needs_points: both of these take `detect(pixels, boxes)`, which gives faces with 68 points, from above.
    raw(params, extra, arrays) -> arrays: the network on prepared arrays, outputs by name; compiled inside, traceable.
    inputs: the shapes of all arrays that `raw` takes, as `jax.export` reads them: {"image": "B, 32, 32, 3"}; sizes
        with a name may be any.
    from_torch(tensors, params, extra) -> (params, extra): official checkpoint in, `tensors` maps names to numpy arrays.
    frozen() -> tree of big constants, placed on the devices once and passed as an argument.
    prepare(batch, key, frozen) -> batch: on the device, before the loss.
    adopt(params, extra) -> (params, extra): what a run that begins with another run's parameters makes of them.
    """

    init: Callable[[jax.Array], tuple[Tree, Tree]]
    loss: Callable[..., tuple[jax.Array, tuple[Tree, dict[str, jax.Array]]]]
    optimizer: optax.GradientTransformation
    train_data: Callable[[int], Iterator[Batch]]
    evaluators: Mapping[str, Evaluator]
    predict: Callable[..., Any]
    raw: Callable[[Tree, Tree, dict[str, Any]], dict[str, jax.Array]]
    inputs: Mapping[str, str]
    from_torch: Callable[[dict[str, np.ndarray], Tree, Tree], tuple[Tree, Tree]]
    frozen: Callable[[], Tree] = _nothing_frozen
    prepare: Callable[[Batch, jax.Array, Tree], Batch] = _unchanged
    adopt: Callable[[Tree, Tree], tuple[Tree, Tree]] = _as_it_is
    predict_set: Callable[..., Any] | None = None
    needs_points: bool = False
