"""Checkpoints of HongwenZhang/JVCR-3Dlandmark: {"state_dict_p2v": …, "state_dict_v2c": …}, whole or one half."""

from typing import Any

import numpy as np

from jaxface.errors import UserError
from jaxface.system import Converted
from jaxface.systems.jvcr.model import JVCR, Pix2Vox, Reader, Vox2Coord
from jaxface.torch_weights import Tensors, Transform, convolution, linear, rename, unwrap, vector

Sources = dict[str, tuple[str, Transform]]
# Where the entries of each half lie: nest of the official file, prefix in a flat state dict, and its last layer, by
# which a bare state dict of one half is recognised.
HALVES = {
    "pix2vox": ("state_dict_p2v", "pix2vox", "score.0.weight"),
    "vox2coord": ("state_dict_v2c", "vox2coord", "fc_cord.weight"),
}
COUNTER = "num_batches_tracked"


def volume_convolution(weight: np.ndarray) -> np.ndarray:
    """(out,in,depth,y,x) to (y,x,depth,in,out)."""
    return weight.transpose(3, 4, 2, 1, 0)


def from_torch(model: JVCR, tensors: Tensors, params: Any, model_state: Any) -> Converted:
    """The parameters and batch statistics of an official checkpoint.

    DataParallel's prefix and PyTorch's counters are optional. A file with one of the two networks fills that one; the
    other stays randomly initialised. Raises UserError naming every missing, left-over or misshaped entry.
    """
    if isinstance(model.vox2coord, Reader):
        raise UserError('the official checkpoint needs config.model.regressor "encoder"')
    tensors = {name: value for name, value in tensors.items() if not name.endswith(COUNTER)}
    halves = _halves(tensors)
    statistics = dict(model_state["batch_stats"])
    params = dict(params)
    for half, entries in halves.items():
        maps = pix2vox_sources(model.pix2vox) if half == "pix2vox" else vox2coord_sources(model.vox2coord)
        expected = {"params": params[half], "batch_stats": statistics[half]}
        filled = rename(entries, maps, expected)
        params[half], statistics[half] = filled["params"], filled["batch_stats"]
    notes = tuple(
        f"The checkpoint holds {', '.join(halves)} only; {half} is randomly initialised."
        for half in HALVES
        if half not in halves
    )
    return Converted(params, {"batch_stats": statistics}, notes=notes)


def _halves(tensors: Tensors) -> dict[str, Tensors]:
    """The entries of each half that is there, without prefixes. UserError for what belongs to none."""
    bare = unwrap(tensors, "state_dict")
    for half, (_, _, last) in HALVES.items():
        if last in bare:
            return {half: bare}
    found, rest = {}, dict(bare)
    for half, (nest, prefix, _) in HALVES.items():
        for start in (f"{nest}.", f"{prefix}."):
            inside = {name.removeprefix(start): rest.pop(name) for name in list(rest) if name.startswith(start)}
            if inside:
                found[half] = unwrap(inside)
    if rest or not found:
        names = ", ".join(list(rest)[:5])
        raise UserError(f"the checkpoint is not one of JVCR (state_dict_p2v, state_dict_v2c); it has {names}")
    return found


def _layer(path: str, name: str, transform: Transform) -> Sources:
    return {
        f"params/{path}/kernel": (f"{name}.weight", transform),
        f"params/{path}/bias": (f"{name}.bias", vector),
    }


def _norm(path: str, name: str) -> Sources:
    return {
        f"params/{path}/scale": (f"{name}.weight", vector),
        f"params/{path}/bias": (f"{name}.bias", vector),
        f"batch_stats/{path}/mean": (f"{name}.running_mean", vector),
        f"batch_stats/{path}/var": (f"{name}.running_var", vector),
    }


def _bottleneck(path: str, name: str, shortcut: bool = False) -> Sources:
    sources: Sources = {}
    for number, transform in enumerate((linear, convolution, linear), start=1):
        sources |= _norm(f"{path}/bn{number}", f"{name}.bn{number}")
        sources |= _layer(f"{path}/conv{number}", f"{name}.conv{number}", transform)
    return sources | (_layer(f"{path}/shortcut", f"{name}.downsample.0", linear) if shortcut else {})


def pix2vox_sources(net: Pix2Vox) -> Sources:
    """The name map of the stacked hourglass as `jaxface.torch_weights.rename` takes it."""
    sources = _layer("conv1", "conv1", convolution) | _norm("bn_stem", "bn1")
    for layer in (1, 2, 3):
        sources |= _bottleneck(f"layer{layer}", f"layer{layer}.0", shortcut=layer < 3)
    for stack in range(len(net.depths)):
        for block in range(net.blocks):
            sources |= _bottleneck(f"residual{stack}/block{block}", f"res.{stack}.{block}")
            for level in range(net.levels):
                for branch in range(3 if level else 4):
                    path = f"hourglass{stack}/level{level}_{branch}/block{block}"
                    sources |= _bottleneck(path, f"hg.{stack}.hg.{level}.{branch}.{block}")
        sources |= _layer(f"fc{stack}", f"fc.{stack}.0", linear) | _norm(f"bn{stack}", f"fc.{stack}.1")
        sources |= _layer(f"score{stack}", f"score.{stack}", linear)
        if stack < len(net.depths) - 1:
            sources |= _layer(f"fc_back{stack}", f"fc_.{stack}", linear)
            sources |= _layer(f"score_back{stack}", f"score_.{stack}", linear)
    return sources


def vox2coord_sources(net: Vox2Coord) -> Sources:
    """The name map of the coordinate regressor."""
    sources: Sources = {}
    for index in range(len(net.channels)):
        sources |= _layer(f"conv{index}", f"encoder.{index}.0", volume_convolution)
        sources |= _norm(f"bn{index}", f"encoder.{index}.1")
    last = len(net.channels)
    sources |= _layer(f"conv{last}", f"encoder.{last}.0", volume_convolution)
    return sources | _layer("coordinates", "fc_cord", linear)
