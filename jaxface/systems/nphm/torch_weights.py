"""Conversion of official NPHM and NPM checkpoints (github.com/SimonGiebenhain/NPHM): networks and codebooks."""

import dataclasses
from typing import Any

import jax
import ml_collections
import numpy as np

from jaxface import array_files
from jaxface.errors import UserError
from jaxface.system import Converted
from jaxface.systems.nphm.networks.deformation import Deformation
from jaxface.systems.nphm.networks.ensemble import Ensemble
from jaxface.systems.nphm.networks.npm import NPM, IdentityModel
from jaxface.torch_weights import Tensors, Transform, linear, rename, unwrap

DECODER = ("decoder_state_dict", "state_dict", "model_state_dict")
CODES = "latent_codes_state_dict.weight"
Sources = dict[str, tuple[str, Transform]]


def _position_width(decoder: Tensors) -> int | None:
    """Hidden units of the anchor MLP, None without one. The released configurations do not state it."""
    weight = decoder.get("mlp_pos.0.weight")
    return None if weight is None else len(weight)


def from_torch(
    model: IdentityModel | Deformation,
    config: ml_collections.ConfigDict,
    tensors: Tensors,
    params: Any,
    model_state: Any,
) -> Converted:
    """The decoder and codes of a checkpoint; if it has no codes, those of `params` are kept.

    The result's `config` has the values that only the checkpoint determines: `model.position_width` and the number of
    `model.codes`. Raises UserError naming every missing, left-over or misshaped entry, and for another number of
    anchors.
    """
    changes = {}
    decoder = unwrap(tensors, *DECODER)
    decoder = {name: value for name, value in decoder.items() if not name.startswith("latent_codes")}
    if isinstance(model, Ensemble):
        _check_anchors(model, decoder)
        width = _position_width(decoder)
        if width:
            model = dataclasses.replace(model, position_width=width)
            changes["position_width"] = width
    converted = {config.phase: rename(decoder, sources(model), jax.eval_shape(model.init, jax.random.key(0)))}
    if CODES in tensors:
        codes = np.ascontiguousarray(tensors[CODES], np.float32)
        if codes.ndim != 2 or codes.shape[1] != model.code_dim:
            raise UserError(f"{CODES}: shape {codes.shape}; the configured codes have {model.code_dim} entries")
        converted["codes"] = codes
        changes["codes"] = len(codes)
    return Converted({**params, **converted}, model_state, {"model": changes} if changes else {})


def read_anchors(path: str) -> tuple[float, ...]:
    """The 3A numbers of an .npy file of mean anchors (A,3), or (1,A,3). Raises UserError for any other file."""
    anchors = np.squeeze(array_files.read_npy(path))
    if anchors.ndim != 2 or anchors.shape[1] != 3 or anchors.dtype.kind != "f" or not np.isfinite(anchors).all():
        raise UserError(f"{path} holds {anchors.dtype} {anchors.shape}; it must be finite floats (A,3)")
    return tuple(anchors.reshape(-1).tolist())


def _check_anchors(model: Ensemble, decoder: Tensors) -> None:
    last = decoder.get("mlp_pos.4.bias")
    if last is not None and len(last) != len(model.mean_anchors):
        raise UserError(
            f"--anchors: {model.anchor_count} mean anchors, but the checkpoint has {len(last) // 3}; pass its file"
        )


def sources(model: IdentityModel | Deformation) -> Sources:
    """Official name and transform of each parameter path."""
    layers = range(model.layers + 1)
    if isinstance(model, NPM):
        return _layers("", "lin", layers, linear)
    if isinstance(model, Ensemble):
        mapping = _layers("members/", "ensembled_deep_sdf.lin", layers, _transpose_stacked)
        for index in range(3):
            mapping[f"positions/layer{index}/kernel"] = (f"mlp_pos.{2 * index}.weight", linear)
            mapping[f"positions/layer{index}/bias"] = (f"mlp_pos.{2 * index}.bias", np.asarray)
        return mapping
    if not model.compressed:
        return _layers("mlp/", "lin", layers, linear)
    return _layers("mlp/", "defDeepSDF.lin", layers, linear) | {
        "compressor/kernel": ("compressor.0.weight", linear),
        "compressor/bias": ("compressor.0.bias", np.asarray),
    }


def _layers(path: str, official: str, indices: range, transform: Transform) -> Sources:
    sources: Sources = {}
    for index in indices:
        sources[f"{path}layer{index}/kernel"] = (f"{official}{index}.weight", transform)
        sources[f"{path}layer{index}/bias"] = (f"{official}{index}.bias", np.asarray)
    return sources


def _transpose_stacked(weight: np.ndarray) -> np.ndarray:
    """(networks,out,in) to (networks,in,out)."""
    return weight.transpose(0, 2, 1)
