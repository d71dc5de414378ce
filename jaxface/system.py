"""The interface between a system and the rest of the package: frozen dataclasses of functions.

A system is a package `jaxface.systems.<name>` with these members, which only the functions at the end of this module
look up by name:

- `build(config) -> System`; it does not change `config`.
- `resolve(config) -> ConfigDict`: a copy of `config` in which every unset value is filled in.
- `DEPENDENCIES` (optional): the config keys that name the workdir of another run whose parameters the system reads.
- `stand_ins.config(config) -> ConfigDict` and `stand_ins.batch(config, count) -> Batch`, see the functions below.
- `CONVERSION_INPUTS` (optional): what `launch.convert` takes besides a checkpoint, `ConversionInput` by flag name.

B is the per-device batch; trees are nested dicts of arrays; arrays are float32 unless stated.
"""

import dataclasses
import importlib
import pathlib
import pkgutil
import re
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.struct
import jax
import ml_collections
import numpy as np
import optax

from jaxface.errors import UserError

Tree = Any
MAX_SHOWN_CHARS = 80
# Length of a run in epochs whose data set is not prepared; schedules need one.
STAND_IN_STEPS = 10_000
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
        ranked: `(arrays) -> (E,)` errors as fractions by which `launch.evaluate --pictures` draws the CED and chooses
            the worst examples; None: the evaluator has no such error.
    """

    data: Callable[[], Iterator[Batch]]
    predict: Callable[[Tree, Tree, Batch, Tree], dict[str, jax.Array]]
    summarise: Callable[[dict[str, np.ndarray]], dict[str, float]]
    every: int
    ranked: Callable[[dict[str, np.ndarray]], np.ndarray] | None = None


@dataclasses.dataclass(frozen=True)
class Converted:
    """What `System.from_torch` makes of an official checkpoint.

    Attributes:
        params: parameters.
        model_state: batch statistics, or `{}`.
        config: config values that only the checkpoint determines, nested: `{"model": {"codes": 10}}`.
        notes: sentences for the user about entries that were dropped and parts that keep their random initialisation.
    """

    params: Tree
    model_state: Tree
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ConversionInput:
    """Something that a conversion needs besides the checkpoint, given by a flag of `launch.convert`.

    Attributes:
        key: the config key that it sets, "model.meanface".
        read: `(flag value) -> value of the key`. It raises UserError for a file that cannot be used.
        help: description of the flag.
    """

    key: str
    read: Callable[[str], Any]
    help: str


@dataclasses.dataclass(frozen=True)
class HeadDecoder:
    """The head of a system that reconstructs or fits heads: codes in, meshes in millimetres out.

    I and E are the lengths of the codes; the zero codes are the mean person and the neutral expression.

    Attributes:
        identity_size: I.
        expression_size: E, 0 for a head without expressions.
        mesh: `(identity (I,), expression (E,)) -> jaxface.meshes.Mesh`, before posing: x to the subject's left, y up, z
            out of the face. Meshes of one identity share their topology.
        sample: `(rng, deviations) -> (identity, expression)`, codes of a random person drawn `deviations` standard
            deviations wide.
        landmarks: `(vertices (V,3)) -> (68,3)`, the landmarks of a mesh; None if the head has none.
        blendshapes: expression codes (E,) at full weight by name; empty if the head's expressions have no names.
    """

    identity_size: int
    expression_size: int
    mesh: Callable[[np.ndarray, np.ndarray], Any]
    sample: Callable[[np.random.Generator, float], tuple[np.ndarray, np.ndarray]]
    landmarks: Callable[[np.ndarray], np.ndarray] | None = None
    blendshapes: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ClipReconstruction:
    """The heads of one face in a video.

    Attributes:
        frame: `(index, image) -> face` in one of the frames in which the face was found, given its image.
        reference: the index whose image `files` needs, the one that shows the face best.
        files: `(image) -> {name ending: bytes}` of the whole clip.
    """

    frame: Callable[[int, np.ndarray], Any]
    reference: int
    files: Callable[[np.ndarray], Mapping[str, bytes]]


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a network that is exported as a graph of its own.

    Attributes:
        raw: `(params, model_state, arrays) -> arrays`, as `System.raw`.
        inputs: shapes of its arrays; see `System.inputs`.
    """

    raw: Callable[[Tree, Tree, dict[str, Any]], dict[str, jax.Array]]
    inputs: Mapping[str, str]


def _no_constants() -> Tree:
    return {}


def _unchanged(batch: Batch, key: jax.Array, constants: Tree) -> Batch:
    del key, constants
    return batch


def unit_images(batch: Batch) -> Batch:
    """The batch with its images, which are its uint8 arrays, as float32 in [0,1]; on the device this moves less."""
    return {name: array.astype(np.float32) / 255 if array.dtype == np.uint8 else array for name, array in batch.items()}


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
            Images are uint8, which the step turns into float32 in [0,1] (`unit_images`).
        evaluators: evaluators by name.
        predict: `(params, model_state, image, **options) -> results` for one image, set of points or scan.
        predict_batch: `(params, model_state, images, boxes, **options) -> results of each`, as `predict` for several
            images at once; None if the system takes one at a time.
        raw: `(params, model_state, arrays) -> arrays`, the network alone on prepared arrays. It is compiled inside and
            traceable.
        inputs: shapes of the arrays that `raw` takes, in the notation of `jax.export`: `{"image": "B, 32, 32, 3"}`.
            Named sizes are free.
        from_torch: `(tensors, params, model_state) -> Converted`; `tensors` maps the names of an official checkpoint to
            numpy arrays, `params` and `model_state` are the initial ones.
        constants: `() -> tree` of large arrays. They are placed on the devices once and passed as an argument.
        preprocess_on_device: `(batch, key, constants) -> batch`, applied on the device before the loss.
        warm_start: `(params, model_state) -> (params, model_state)`, applied to the parameters that a run starts from
            (`config.init`).
        predict_multiview: as `predict` for several images of one person; None if the system takes one image at a time.
        reconstruct_clip: `(params, model_state, faces, times, smooth) -> ClipReconstruction` of one face in a video, by
            its predictions in the frames at `times` (s); None if each frame stands for itself.
        tools: names of functions of other systems that both `predict` functions take as keyword arguments. Available
            is "detect": `(image, boxes) -> faces` with 68 landmarks each.
        takes_five: whether both `predict` functions take `five`, the eyes, nose tip and mouth corners (5,2) of the face
            in the box (in `predict_multiview` a list of these or None), by which they align.
        applications: names of further keyword arguments of `predict` and `predict_batch`: "fit", "masks", "texture",
            "paint" (`systems.continuous`).
        parts: `() -> {name: Part}`, the parts of `raw` that are exported as graphs of their own.
        head: `(params, model_state) -> HeadDecoder`; None for systems of landmarks only.
    """

    init: Callable[[jax.Array], tuple[Tree, Tree]]
    loss: Callable[..., tuple[jax.Array, tuple[Tree, dict[str, jax.Array]]]]
    optimizer: optax.GradientTransformation
    train_data: Callable[[int], Iterator[Batch]]
    evaluators: Mapping[str, Evaluator]
    predict: Callable[..., Any]
    raw: Callable[[Tree, Tree, dict[str, Any]], dict[str, jax.Array]]
    inputs: Mapping[str, str]
    from_torch: Callable[[dict[str, np.ndarray], Tree, Tree], Converted]
    constants: Callable[[], Tree] = _no_constants
    preprocess_on_device: Callable[[Batch, jax.Array, Tree], Batch] = _unchanged
    warm_start: Callable[[Tree, Tree], tuple[Tree, Tree]] = _identity
    predict_batch: Callable[..., Any] | None = None
    predict_multiview: Callable[..., Any] | None = None
    reconstruct_clip: Callable[..., ClipReconstruction] | None = None
    tools: tuple[str, ...] = ()
    takes_five: bool = False
    applications: tuple[str, ...] = ()
    parts: Callable[[], Mapping[str, Part]] = dict
    head: Callable[[Tree, Tree], HeadDecoder] | None = None


def build(config: ml_collections.ConfigDict, where: str) -> System:
    """The system of a configuration, which is not changed.

    Args:
        config: a configuration; unset values are filled in as by `resolve`.
        where: the source of the configuration, for messages.

    Raises:
        UserError: the system is unknown, a key is missing, or values do not fit together.
    """
    return _call("build", config, where)


def resolve(config: ml_collections.ConfigDict, where: str) -> ml_collections.ConfigDict:
    """A copy of the configuration in which every unset value is filled in, as it is stored in a workdir.

    Configuration files leave values unset that depend on the prepared data set or a head model: mean faces, anchors,
    numbers of people.
    Arguments and errors are those of `build`.
    """
    return _call("resolve", config, where)


def with_stand_ins(config: ml_collections.ConfigDict, where: str) -> ml_collections.ConfigDict:
    """A resolved copy of the configuration that needs neither data nor files of others, to measure a program.

    What a data set that is not prepared and a head that is not at hand would determine is replaced by values of the
    published size. Arguments and errors are those of `build`.
    """
    name = config.get("system")
    if name not in names():
        return resolve(config, where)  # which reports the name
    copy = config.copy_and_resolve_references()
    if "data" in copy and copy.data.get("build_examples"):
        copy.data.build_examples = 0
    if not copy.steps:  # epochs of data that are not there
        copy.steps = STAND_IN_STEPS
    return resolve(importlib.import_module(f"jaxface.systems.{name}.stand_ins").config(copy), where)


def batch_shapes(config: ml_collections.ConfigDict, count: int) -> Batch:
    """Shapes and types of a training batch of `count` examples of a resolved configuration, as `jax.ShapeDtypeStruct`s.

    They are those of `System.train_data`, known without data.
    """
    return importlib.import_module(f"jaxface.systems.{config.system}.stand_ins").batch(config, count)


def dependencies(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """The config keys that name the workdir of another run whose parameters the system reads, where they are set."""
    name = config.get("system")
    keys = getattr(_module(name), "DEPENDENCIES", ()) if name in names() else ()
    return tuple(key for key in keys if config.get(key))


def conversion_inputs(name: str) -> Mapping[str, ConversionInput]:
    """What `launch.convert` takes besides a checkpoint for the system `name`, by flag name."""
    return getattr(_module(name), "CONVERSION_INPUTS", {})


def names() -> list[str]:
    """The names of all systems, sorted."""
    folder = pathlib.Path(__file__).parent / "systems"
    return sorted(module.name for module in pkgutil.iter_modules([str(folder)]))


def _shown(value: Any) -> str:
    """A value for a message: one line, shortened."""
    return " ".join(repr(value).split())[:MAX_SHOWN_CHARS]


def _module(name: str) -> types.ModuleType:
    return importlib.import_module(f"jaxface.systems.{name}")


def _call(function: str, config: ml_collections.ConfigDict, where: str) -> Any:
    """The result of a function of the configured system on `config`; a key that is missing becomes a UserError."""
    name = config.get("system")
    if name not in names():
        raise UserError(f"{where}: unknown system {_shown(name)}; choose one of {', '.join(names())}")
    module = _module(name)
    try:
        return getattr(module, function)(config)
    except (AttributeError, KeyError) as error:
        if "ml_collections" not in traceback.extract_tb(error.__traceback__)[-1].filename:
            raise
        # The message of ml_collections starts with the key; a suggestion may follow.
        key, *_ = re.findall(r"\w+", str(error))
        hint = "copy it from the file in configs/"
        raise UserError(f"{where} has no key {key!r}, which this version of jaxface reads; {hint}") from error
