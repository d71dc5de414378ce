"""Checkpoints for PIPNet: the official snapshots (bare state dicts) and ImageNet backbones of torchvision.

Names: jhb86253817/PIPNet, lib/networks.py and lib/mobilenetv3.py. The self-trained nets have the same.
"""

from typing import Any

import numpy as np

from jaxface import torch_names
from jaxface.errors import UserError
from jaxface.system import Converted
from jaxface.systems.pipnet.model import PIPNet
from jaxface.torch_names import Sources
from jaxface.torch_weights import Tensors, convolution, linear, rename, unwrap

HEADS = ("cls_layer", "x_layer", "y_layer", "nb_x_layer", "nb_y_layer")
CLASSIFIERS = ("fc.", "classifier.")


def from_torch(model: PIPNet, backbone: str, tensors: Tensors, params: Any, model_state: Any) -> Converted:
    """The parameters and batch statistics of a checkpoint; `backbone` is config.model.backbone.

    A checkpoint without PIPNet's heads but with a classifier is an ImageNet backbone: it fills the backbone only, and
    its classifier is dropped. Otherwise the match is strict: UserError names every missing, left-over or misshaped
    entry.
    """
    if backbone == "custom":
        raise UserError("no official checkpoint has a custom backbone; choose another config.model.backbone")
    tensors = torch_names.without_counters(unwrap(tensors, "state_dict", "model"))
    expected = {"params": params, **model_state}
    dropped = [name for name in tensors if name.startswith(CLASSIFIERS)]
    if not dropped or f"{HEADS[0]}.weight" in tensors:
        filled = rename(tensors, official(model, backbone), expected)
        return Converted(filled.pop("params"), filled)
    kept = {name: value for name, value in tensors.items() if name not in dropped}
    inside = {name: {"backbone": tree["backbone"]} for name, tree in expected.items()}
    filled = rename(kept, _backbone(backbone), inside)
    note = (
        f"The backbone is filled from an ImageNet checkpoint; dropped: {', '.join(dropped)}. "
        "Everything behind it is randomly initialised."
    )
    merged = {name: {**tree, **filled[name]} for name, tree in expected.items()}
    return Converted(merged.pop("params"), merged, notes=(note,))


def official(model: PIPNet, backbone: str) -> Sources:
    """The name map of a whole net."""
    sources = _backbone(backbone)
    for name in HEADS:
        sources |= torch_names.layer(name, name, linear, bias=True)
    if model.scaling < 1:
        sources |= torch_names.conv_norm("deconv1", "bn_deconv1", "deconv1", "bn_deconv1", transposed)
    for number in (5, 6)[: {2: 1, 4: 2}.get(model.scaling, 0)]:
        sources |= torch_names.layer(f"layer{number}", f"layer{number}", convolution, bias=True)
        sources |= torch_names.norm(f"bn{number}", f"bn{number}")
    return sources


def _backbone(name: str) -> Sources:
    make = torch_names.resnet if name.startswith("resnet") else torch_names.mobilenet
    return make(name, "backbone/")


def transposed(weight: np.ndarray) -> np.ndarray:
    """The kernel (in,out,H,W) of a transposed convolution as the (H,W,in,out) of a convolution of the spread input."""
    return weight.transpose(2, 3, 0, 1)[::-1, ::-1]
