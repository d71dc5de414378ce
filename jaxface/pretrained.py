"""Models in folders: shipped models, and the copies of other runs' models that a workdir depends on."""

import logging
import os
import pathlib
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np
import safetensors.numpy
from flax import traverse_util

from jaxface import checkpoint, checksums, compat, config_file, storage, system
from jaxface.errors import UserError
from jaxface.system import TrainState, Tree

PARAMS_FILE = "params.safetensors"
MODEL_STATE_PREFIX = "model_state/"
# A shipped config.json names no folder of the machine that trained the model.
SHIPPED_DATA_DIR = "data"
LOG = logging.getLogger(__name__)


def save_asset(folder: str | os.PathLike, config: ml_collections.ConfigDict, params: Tree, model_state: Tree) -> None:
    """Writes config.json and params.safetensors, as a model ships: matrices as float16, the rest as float32.

    The checksums of the files are written beside them. Runs that the configuration depends on are written below
    `folder`/dependencies. Raises ValueError if a matrix exceeds the range of float16.
    """
    config = config.copy_and_resolve_references()
    for key in system.dependencies(config):
        copy = pathlib.Path(folder) / config_file.DEPENDENCIES / key
        save_asset(copy, *load(config[key]))
        config[key] = str(copy)
    config.update({name: "" for name in ("init", "resume") if name in config})
    if "data" in config:
        config.data.dir = SHIPPED_DATA_DIR
    arrays = {name: _to_half(name, value) for name, value in flat(params).items()}
    arrays |= {MODEL_STATE_PREFIX + name: np.asarray(value, np.float32) for name, value in flat(model_state).items()}
    config_file.write(folder, config)
    safetensors.numpy.save_file(arrays, pathlib.Path(folder) / PARAMS_FILE)
    checksums.write(folder)


def load_asset(folder: str | os.PathLike) -> tuple[ml_collections.ConfigDict, Tree, Tree]:
    """Reads a folder that `save_asset` wrote.

    Returns:
        config, params, model_state; arrays are float32.

    Raises:
        UserError: a file cannot be read, or differs from its checksum.
    """
    path = storage.path(folder) / PARAMS_FILE
    problem = checksums.problem(folder)
    if problem:
        raise UserError(
            f"{folder}: damaged, {problem}; install the package or copy the model again (after an intended change of "
            f"its files, delete {checksums.NAME})"
        )
    if not checksums.exists(folder):
        LOG.warning("%s: not verified, it has no %s", folder, checksums.NAME)
    try:
        arrays = safetensors.numpy.load(path.read_bytes())
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error}); install the package or copy the model again") from error
    params, model_state = {}, {}
    for name, value in compat.asset_arrays(arrays).items():
        is_state = name.startswith(MODEL_STATE_PREFIX)
        target = model_state if is_state else params
        target[name.removeprefix(MODEL_STATE_PREFIX)] = value.astype(np.float32)
    unflatten = traverse_util.unflatten_dict
    return config_file.load(folder), unflatten(params, sep="/"), unflatten(model_state, sep="/")


def load(folder: str | os.PathLike) -> tuple[ml_collections.ConfigDict, Tree, Tree]:
    """config, params and model_state of a workdir or of a folder that `save_asset` wrote."""
    if (storage.path(folder) / PARAMS_FILE).is_file():
        return load_asset(folder)
    return config_file.load(folder), *checkpoint.load_params(folder)


def copy_dependencies(workdir: str | os.PathLike, config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Copies the runs that the configuration depends on into `workdir`/dependencies/<key>.

    The keys are those of `jaxface.system.dependencies`. With the copies a workdir is self-contained and can be moved.
    An existing copy is kept. All hosts call this.

    Returns:
        A copy of the configuration that names the copied runs.
    """
    config = config.copy_and_resolve_references()
    for key in system.dependencies(config):
        copy = _dependency_folder(storage.path(workdir), key)
        if not checkpoint.steps(copy):
            source, params, model_state = load(config[key])
            config_file.write(copy, source)
            with checkpoint.Checkpoints(copy, keep=1) as checkpoints:
                checkpoints.save(TrainState(jnp.zeros((), jnp.int32), params, model_state, {}, {}))
        config[key] = str(copy)
    return config


def _dependency_folder(workdir: pathlib.Path, key: str) -> pathlib.Path:
    """Folder of the copy of the dependency `key` in `workdir`, whether or not it exists yet."""
    current = workdir / config_file.DEPENDENCIES / key
    earlier = [workdir / name / key for name in compat.EARLIER_DEPENDENCIES]
    return next((folder for folder in (current, *earlier) if folder.is_dir()), current)


def _to_half(name: str, value: Any) -> np.ndarray:
    """`value` as float16 if it has two axes or more, else as float32."""
    value = np.asarray(value, np.float32)
    if value.ndim < 2:
        return value
    if not np.abs(value).max() <= np.finfo(np.float16).max:
        raise ValueError(f"{name} does not fit into float16")
    return value.astype(np.float16)


def flat(tree: Tree) -> dict[str, Any]:
    """The leaves of nested dicts by path, "encoder/stem/kernel"."""
    return traverse_util.flatten_dict(tree, sep="/")
