"""Models in folders: as they ship, and as one run takes another's model into its workdir."""

import os
import pathlib
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np
import safetensors.numpy
from flax import traverse_util

from jaxface import checkpoint, compat
from jaxface.errors import UserError
from jaxface.system import TrainState, Tree

PARAMS_FILE = "params.safetensors"
MODEL_STATE_PREFIX = "model_state/"
# Where the training's data and its beginnings lay says nothing on another machine.
SHIPPED_DATA_DIR = "data"
# The key by which a configuration names another run whose model it only reads.
ADOPTED = "identity"


def save_asset(folder: str | os.PathLike, config: ml_collections.ConfigDict, params: Tree, model_state: Tree) -> None:
    """Writes config.json and params.safetensors, as a model ships: matrices as float16, the rest as float32.

    A run that the configuration has adopted is written into the folder as well. ValueError where a matrix does not fit
    into float16.
    """
    if config.get(ADOPTED):
        own = pathlib.Path(folder) / checkpoint.DEPENDENCIES / ADOPTED
        save_asset(own, *load(config[ADOPTED]))
        config = ml_collections.ConfigDict({**config.to_dict(), ADOPTED: str(own)})
    config = config.copy_and_resolve_references()
    config.update({name: "" for name in ("init", "resume") if name in config})
    if "data" in config:
        config.data.dir = SHIPPED_DATA_DIR
    arrays = {name: _half(name, value) for name, value in flat(params).items()}
    arrays |= {MODEL_STATE_PREFIX + name: np.asarray(value, np.float32) for name, value in flat(model_state).items()}
    checkpoint.write_config(folder, config)
    safetensors.numpy.save_file(arrays, pathlib.Path(folder) / PARAMS_FILE)


def load_asset(folder: str | os.PathLike) -> tuple[ml_collections.ConfigDict, Tree, Tree]:
    """(config, params, model_state) of a folder that `save_asset` wrote, as float32. UserError where it is damaged."""
    path = pathlib.Path(folder) / PARAMS_FILE
    try:
        arrays = safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}); install the package again") from error
    arrays = {name: value.astype(np.float32) for name, value in compat.asset_arrays(arrays).items()}
    model_state = {
        name.removeprefix(MODEL_STATE_PREFIX): value
        for name, value in arrays.items()
        if name.startswith(MODEL_STATE_PREFIX)
    }
    params = {name: value for name, value in arrays.items() if not name.startswith(MODEL_STATE_PREFIX)}
    unflatten = traverse_util.unflatten_dict
    return checkpoint.load_config(folder), unflatten(params, sep="/"), unflatten(model_state, sep="/")


def load(folder: str | os.PathLike) -> tuple[ml_collections.ConfigDict, Tree, Tree]:
    """(config, params, model_state) of a folder of either kind: a workdir, or one that `save_asset` wrote."""
    if (pathlib.Path(folder) / PARAMS_FILE).is_file():
        return load_asset(folder)
    return checkpoint.load_config(folder), *checkpoint.load_params(folder)


def copy_dependencies(workdir: str | os.PathLike, config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The configuration with the run that its key "identity" names copied to `workdir`/dependencies/identity.

    So a workdir stands alone and can be moved. What was copied once stays as it is. All hosts call this. Configurations
    that name no run come back as they are.
    """
    if not config.get(ADOPTED):
        return config
    folders = [pathlib.Path(workdir) / name for name in (*compat.EARLIER_DEPENDENCIES, checkpoint.DEPENDENCIES)]
    own = next((folder / ADOPTED for folder in folders if (folder / ADOPTED).is_dir()), folders[-1] / ADOPTED)
    if not checkpoint.steps(own):
        source, params, model_state = load(config[ADOPTED])
        checkpoint.write_config(own, source)
        with checkpoint.Checkpoints(own, keep=1) as saved:
            saved.save(TrainState(jnp.zeros((), jnp.int32), params, model_state, {}, {}))
    adopted = config.copy_and_resolve_references()
    adopted[ADOPTED] = str(own)
    return adopted


def _half(name: str, value: Any) -> np.ndarray:
    value = np.asarray(value, np.float32)
    if value.ndim < 2:
        return value
    if not np.abs(value).max() <= np.finfo(np.float16).max:
        raise ValueError(f"{name} does not fit into float16")
    return value.astype(np.float16)


def flat(tree: Tree) -> dict[str, Any]:
    """The leaves of nested dicts by path, "encoder/stem/kernel"."""
    return traverse_util.flatten_dict(tree, sep="/")
