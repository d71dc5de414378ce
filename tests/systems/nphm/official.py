"""The official networks with deterministic weights, converted to ours; the golden numbers were computed with them."""

import functools
import json

import jax
import ml_collections
import numpy as np

from jaxface.systems.nphm import torch_weights
from jaxface.systems.nphm.networks.deformation import Deformation
from jaxface.systems.nphm.networks.ensemble import Ensemble
from jaxface.systems.nphm.networks.npm import NPM
from tests import weights


@functools.cache
def golden():
    """Golden numbers of the official code."""
    return dict(np.load(weights.GOLDEN / "nphm_golden.npz"))


def checkpoint(name: str) -> dict:
    """Official state dict of the network "id", "ex", "npm_id" or "npm_ex"."""
    scales = json.loads((weights.GOLDEN / "nphm_rescale.json").read_text())[name]
    tensors = weights.state_dict(f"nphm_manifest_{name}.json")
    return {key: (value * np.float32(scales.get(key, 1.0))) for key, value in tensors.items()}


def model(name: str):
    """Our model with the official sizes."""
    if name == "id":
        anchors = tuple(golden()["anchors_mean"].ravel().tolist())
        return Ensemble(anchors, 16, 64, 32, 200, 4, 256)
    if name == "npm_id":
        return NPM(512, 1024, 8)
    return Deformation(1344, 39, 200, 32, 512, 6) if name == "ex" else Deformation(512, 0, 200, 0, 1024, 8)


@functools.cache
def converted(name: str):
    """(model, converted parameters)."""
    phase = "identity" if name.endswith("id") else "expression"
    config = ml_collections.ConfigDict({"phase": phase, "model": {"position_width": 64, "codes": 0}})
    params = torch_weights.from_torch(model(name), config, checkpoint(name), {}, {}).params[phase]
    return model(name), jax.tree.map(np.asarray, params)


def error(ours, theirs) -> float:
    """Largest absolute difference, relative to the largest golden number."""
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())
