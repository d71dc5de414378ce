"""The interface between a system and the rest of the package: frozen dataclasses of functions.

B is the per-device batch; trees are nested dicts of arrays; arrays are float32 unless stated.
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
    """The training state that is saved and restored: a plain pytree without functions and without a random key.

    `step` is an int32 scalar, the number of completed updates. `ema` has the structure of `params`, or is `{}` if no
    moving average is kept.
    """

    step: jax.Array
    params: Tree
    model_state: Tree
    opt_state: Tree
    ema: Tree


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """A data set and how a model is scored on it.

    Attributes:
        data: `() -> iterator` of host-local numpy batches, the same number on every host. The last batch is padded, and
            `mask` (B,) bool marks the real examples.
        predict: `(params, model_state, batch, constants) -> arrays` with leading axis B, on one device. The first few
            images of an array named "picture" (B,H,W,3) are written to TensorBoard; it is not passed to `summarise`.
        summarise: `(arrays) -> metrics`. It receives every example of all hosts once, without padding, and returns
            named floats.
        every: number of training steps between two evaluations.
    """

    data: Callable[[], Iterator[Batch]]
    predict: Callable[[Tree, Tree, Batch, Tree], dict[str, jax.Array]]
    summarise: Callable[[dict[str, np.ndarray]], dict[str, float]]
    every: int


def _no_constants() -> Tree:
    return {}


def _unchanged(batch: Batch, key: jax.Array, constants: Tree) -> Batch:
    del key, constants
    return batch


def _identity(params: Tree, model_state: Tree) -> tuple[Tree, Tree]:
    return params, model_state


@dataclasses.dataclass(frozen=True)
class System:
    """A system as a set of pure functions; `jaxface.systems.<name>.build(config)` creates one.

    Attributes:
        init: `(key) -> (params, model_state)`. `model_state` holds batch statistics, or is `{}`.
        loss: `(params, model_state, batch, key, step, constants) -> (loss, (model_state, metrics))` on one device;
            `loss` and every metric are scalars.
        optimizer: one optax transformation.
        train_data: `(step) -> iterator`, endless, of host-local numpy batches, starting with the batch of `step`.
        evaluators: evaluators by name.
        predict: `(params, model_state, image, **options) -> results` for one image, set of points or scan.
        raw: `(params, model_state, arrays) -> arrays`, the network alone on prepared arrays. It is compiled inside and
            traceable.
        inputs: shapes of the arrays that `raw` takes, in the notation of `jax.export`: `{"image": "B, 32, 32, 3"}`.
            Named sizes are free.
        from_torch: `(tensors, params, model_state) -> (params, model_state)`; `tensors` maps the names of an official
            checkpoint to numpy arrays.
        constants: `() -> tree` of large arrays. They are placed on the devices once and passed as an argument.
        preprocess_on_device: `(batch, key, constants) -> batch`, applied on the device before the loss.
        warm_start: `(params, model_state) -> (params, model_state)`, applied to the parameters that a run starts from
            (`config.init`).
        predict_multiview: as `predict` for several images of one person; None if the system takes one image at a time.
        tools: names of functions of other systems that both `predict` functions take as keyword arguments. Available
            is "detect": `(image, boxes) -> faces` with 68 landmarks each.
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
    constants: Callable[[], Tree] = _no_constants
    preprocess_on_device: Callable[[Batch, jax.Array, Tree], Batch] = _unchanged
    warm_start: Callable[[Tree, Tree], tuple[Tree, Tree]] = _identity
    predict_multiview: Callable[..., Any] | None = None
    tools: tuple[str, ...] = ()
