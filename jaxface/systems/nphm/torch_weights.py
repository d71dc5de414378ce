"""Official NPHM and NPM checkpoints: decoder and codes, by the names of SimonGiebenhain/NPHM."""

from typing import Any

import jax
import numpy as np

from jaxface.errors import UserError
from jaxface.systems.nphm.deformation import Deformation
from jaxface.systems.nphm.ensemble import Ensemble
from jaxface.systems.nphm.single import Single
from jaxface.torch_weights import Tensors, Transform, linear, rename, unwrap

DECODER = ("decoder_state_dict", "state_dict", "model_state_dict")
CODES = "latent_codes_state_dict.weight"
Sources = dict[str, tuple[str, Transform]]


def position_width(tensors: Tensors) -> int | None:
    """Width of the anchors' MLP in a checkpoint, which the release's configurations do not tell; None without one."""
    weight = unwrap(tensors, *DECODER).get("mlp_pos.0.weight")
    return None if weight is None else len(weight)


def from_torch(
    model: Ensemble | Single | Deformation, part: str, tensors: Tensors, params: Any, extra: Any
) -> tuple[Any, Any]:
    """(params, extra) of a checkpoint: `part` ("identity" or "expression") and, where it has codes, all of those.

    `params` gives what the checkpoint may lack: the codes of a bare state dict. UserError names every missing,
    left-over or misshaped entry.
    """
    decoder = unwrap(tensors, *DECODER)
    decoder = {name: value for name, value in decoder.items() if not name.startswith("latent_codes")}
    expected = jax.eval_shape(model.init, jax.random.key(0))
    filled = {part: rename(decoder, sources(model), expected)}
    if CODES in tensors:
        codes = np.ascontiguousarray(tensors[CODES], np.float32)
        if codes.ndim != 2 or codes.shape[1] != model.code:
            raise UserError(
                f"the checkpoint's codes are {codes.shape}, the configured model's have {model.code} numbers"
            )
        filled["codes"] = codes
    return {**params, **filled}, extra


def sources(model: Ensemble | Single | Deformation) -> Sources:
    """Our paths to the official names."""
    layers = range(model.layers + 1)
    if isinstance(model, Single):
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
