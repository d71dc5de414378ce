"""Official NPHM and NPM checkpoints: decoder and codes, by the names of SimonGiebenhain/NPHM."""

import dataclasses
from typing import Any

import jax
import ml_collections
import numpy as np

from jaxface.errors import UserError
from jaxface.systems.nphm.networks.deformation import Deformation
from jaxface.systems.nphm.networks.ensemble import Ensemble
from jaxface.systems.nphm.networks.npm import NPM
from jaxface.torch_weights import Tensors, Transform, linear, rename, unwrap

DECODER = ("decoder_state_dict", "state_dict", "model_state_dict")
CODES = "latent_codes_state_dict.weight"
Sources = dict[str, tuple[str, Transform]]


def position_width(decoder: Tensors) -> int | None:
    """Width of the anchors' MLP in a checkpoint, which the release's configurations do not tell; None without one."""
    weight = decoder.get("mlp_pos.0.weight")
    return None if weight is None else len(weight)


def from_torch(
    model: Ensemble | NPM | Deformation,
    config: ml_collections.ConfigDict,
    tensors: Tensors,
    params: Any,
    model_state: Any,
) -> tuple[Any, Any]:
    """(params, model_state) of a checkpoint, with all its codes where it has any; else the codes of `params` stay.

    What only the checkpoint knows is set in `config.model`: `position_width` and the number of `codes`. UserError names
    every missing, left-over or misshaped entry, and anchors of another number.
    """
    decoder = unwrap(tensors, *DECODER)
    decoder = {name: value for name, value in decoder.items() if not name.startswith("latent_codes")}
    if isinstance(model, Ensemble):
        _check_anchors(model, decoder)
        width = position_width(decoder)
        if width:
            model, config.model.position_width = dataclasses.replace(model, position_width=width), width
    filled = {config.phase: rename(decoder, sources(model), jax.eval_shape(model.init, jax.random.key(0)))}
    if CODES in tensors:
        codes = np.ascontiguousarray(tensors[CODES], np.float32)
        if codes.ndim != 2 or codes.shape[1] != model.code_dim:
            raise UserError(
                f"the checkpoint's codes are {codes.shape}; the configured ones have {model.code_dim} numbers"
            )
        filled["codes"], config.model.codes = codes, len(codes)
    return {**params, **filled}, model_state


def _check_anchors(model: Ensemble, decoder: Tensors) -> None:
    last = decoder.get("mlp_pos.4.bias")
    if last is not None and len(last) != len(model.mean_anchors):
        raise UserError(
            f"there are {model.anchor_count} mean anchors, but the checkpoint has {len(last) // 3}: give its --anchors"
        )


def sources(model: Ensemble | NPM | Deformation) -> Sources:
    """Our paths to the official names."""
    layers = range(model.layers + 1)
    if isinstance(model, NPM):
        return _layers("", "lin", layers, linear)
    if isinstance(model, Ensemble):
        return _layers("members/", "ensembled_deep_sdf.lin", layers, _stacked) | {
            f"positions/layer{index}/{ours}": (f"mlp_pos.{2 * index}.{theirs}", transform)
            for index in range(3)
            for ours, theirs, transform in (("kernel", "weight", linear), ("bias", "bias", np.asarray))
        }
    if not model.compressed:
        return _layers("mlp/", "lin", layers, linear)
    return _layers("mlp/", "defDeepSDF.lin", layers, linear) | {
        "compressor/kernel": ("compressor.0.weight", linear),
        "compressor/bias": ("compressor.0.bias", np.asarray),
    }


def _layers(ours: str, theirs: str, indices: range, transform: Transform) -> Sources:
    made: Sources = {}
    for index in indices:
        made[f"{ours}layer{index}/kernel"] = (f"{theirs}{index}.weight", transform)
        made[f"{ours}layer{index}/bias"] = (f"{theirs}{index}.bias", np.asarray)
    return made


def _stacked(weight: np.ndarray) -> np.ndarray:
    """(networks,out,in) to (networks,in,out)."""
    return weight.transpose(0, 2, 1)
