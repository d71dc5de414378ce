"""PyTorch checkpoints of HongwenZhang/JVCR-3Dlandmark: {"state_dict_p2v": …, "state_dict_v2c": …} or one of them."""

from typing import Any

import numpy as np

from jaxface import torch_names
from jaxface.errors import UserError
from jaxface.system import Converted
from jaxface.systems.jvcr.model import JVCR, Pix2Vox, SoftArgmaxRegressor, Vox2Coord
from jaxface.torch_names import Sources
from jaxface.torch_weights import Tensors, convolution, linear, rename, unwrap

# The two networks by name: key in the official file, prefix in a flat state dict, and an entry of the last layer, by
# which a bare state dict is recognised.
NETWORKS = {
    "pix2vox": ("state_dict_p2v", "pix2vox", "score.0.weight"),
    "vox2coord": ("state_dict_v2c", "vox2coord", "fc_cord.weight"),
}


def volume_convolution(weight: np.ndarray) -> np.ndarray:
    """Kernel (out,in,depth,y,x) of a 3D convolution as (y,x,depth,in,out)."""
    return weight.transpose(3, 4, 2, 1, 0)


def from_torch(model: JVCR, tensors: Tensors, params: Any, model_state: Any) -> Converted:
    """Parameters and model state from an official checkpoint.

    DataParallel's prefix and PyTorch's batch counters are optional. If the file holds only one of the two networks, the
    other one stays randomly initialised, and a note says so.

    Args:
        model: the network.
        tensors: entries of the checkpoint by name.
        params: randomly initialised parameters.
        model_state: initial batch statistics.

    Returns:
        The checkpoint's values.

    Raises:
        UserError: entries are missing, left over or of another shape; the message names them all.
    """
    if isinstance(model.vox2coord, SoftArgmaxRegressor):
        raise UserError(
            'config.model.regressor is "soft_argmax", which no official checkpoint has; use regressor "encoder"'
        )
    networks = _split(torch_names.without_counters(tensors))
    sources = {"pix2vox": pix2vox_sources(model.pix2vox), "vox2coord": vox2coord_sources(model.vox2coord)}
    params, statistics = dict(params), dict(model_state["batch_stats"])
    for name, entries in networks.items():
        expected = {"params": params[name], "batch_stats": statistics[name]}
        filled = rename(entries, sources[name], expected)
        params[name], statistics[name] = filled["params"], filled["batch_stats"]
    notes = tuple(
        f"The checkpoint contains {', '.join(networks)} only; {name} is randomly initialised."
        for name in NETWORKS
        if name not in networks
    )
    return Converted(params, {"batch_stats": statistics}, notes=notes)


def _split(tensors: Tensors) -> dict[str, Tensors]:
    """The entries of each network in the file, without prefixes. Raises UserError for entries of neither."""
    bare = unwrap(tensors, "state_dict")
    for name, (_, _, last_layer) in NETWORKS.items():
        if last_layer in bare:
            return {name: bare}
    networks, rest = {}, dict(bare)
    for name, (key, prefix, _) in NETWORKS.items():
        for start in (f"{key}.", f"{prefix}."):
            matching = [entry for entry in rest if entry.startswith(start)]
            if matching:
                networks[name] = unwrap({entry.removeprefix(start): rest.pop(entry) for entry in matching})
    if rest or not networks:
        names = ", ".join(list(rest)[:5])
        raise UserError(
            f"checkpoint: not one of JVCR, it has {names}; give a file with state_dict_p2v or state_dict_v2c"
        )
    return networks


def _bottleneck(path: str, name: str, shortcut: bool = False) -> Sources:
    sources: Sources = {}
    for number, transform in enumerate((linear, convolution, linear), start=1):
        sources |= torch_names.norm(f"{path}/bn{number}", f"{name}.bn{number}")
        sources |= torch_names.layer(f"{path}/conv{number}", f"{name}.conv{number}", transform, bias=True)
    return sources | (
        torch_names.layer(f"{path}/shortcut", f"{name}.downsample.0", linear, bias=True) if shortcut else {}
    )


def pix2vox_sources(net: Pix2Vox) -> Sources:
    """Name map of the stacked hourglass for `torch_weights.rename`."""
    sources = torch_names.layer("conv1", "conv1", convolution, bias=True) | torch_names.norm("bn_stem", "bn1")
    for number in (1, 2, 3):
        sources |= _bottleneck(f"layer{number}", f"layer{number}.0", shortcut=number < 3)
    for stack in range(len(net.depths)):
        for block in range(net.blocks):
            sources |= _bottleneck(f"residual{stack}/block{block}", f"res.{stack}.{block}")
            for level in range(net.levels):
                for branch in range(3 if level else 4):
                    path = f"hourglass{stack}/level{level}_{branch}/block{block}"
                    sources |= _bottleneck(path, f"hg.{stack}.hg.{level}.{branch}.{block}")
        sources |= torch_names.layer(f"fc{stack}", f"fc.{stack}.0", linear, bias=True) | torch_names.norm(
            f"bn{stack}", f"fc.{stack}.1"
        )
        sources |= torch_names.layer(f"score{stack}", f"score.{stack}", linear, bias=True)
        if stack < len(net.depths) - 1:
            sources |= torch_names.layer(f"fc_back{stack}", f"fc_.{stack}", linear, bias=True)
            sources |= torch_names.layer(f"score_back{stack}", f"score_.{stack}", linear, bias=True)
    return sources


def vox2coord_sources(net: Vox2Coord) -> Sources:
    """Name map of the coordinate regressor for `torch_weights.rename`."""
    sources: Sources = {}
    for index in range(len(net.channels)):
        sources |= torch_names.layer(f"conv{index}", f"encoder.{index}.0", volume_convolution, bias=True)
        sources |= torch_names.norm(f"bn{index}", f"encoder.{index}.1")
    last = len(net.channels)
    sources |= torch_names.layer(f"conv{last}", f"encoder.{last}.0", volume_convolution, bias=True)
    return sources | torch_names.layer("coordinates", "fc_cord", linear, bias=True)
