"""PyTorch checkpoints for PIPNet: official snapshots (bare state dicts) and torchvision's ImageNet backbones.

Names: jhb86253817/PIPNet, lib/networks.py and lib/mobilenetv3.py; self-trained networks use the same names.
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


def from_torch(model: PIPNet, backbone: str, tensors: Tensors, params: Any, model_state: Any) -> Converted:
    """Parameters and model state from a PyTorch checkpoint.

    A checkpoint with a classifier and without PIPNet's heads is an ImageNet backbone: it fills the backbone, its
    classifier is dropped, and the other layers stay randomly initialised; a note says so.

    Args:
        model: the network.
        backbone: `config.model.backbone`.
        tensors: entries of the checkpoint by name.
        params: randomly initialised parameters.
        model_state: initial batch statistics.

    Returns:
        The checkpoint's values.

    Raises:
        UserError: entries are missing, left over or of another shape; the message names them all.
    """
    if backbone == "custom":
        raise UserError('config.model.backbone is "custom", which no official checkpoint has; choose another')
    tensors = torch_names.without_counters(unwrap(tensors, "state_dict", "model"))
    if torch_names.is_imagenet(tensors, [f"{HEADS[0]}.weight"]):
        return torch_names.fill_backbone(tensors, _backbone(backbone), params, model_state)
    filled = rename(tensors, official(model, backbone), {"params": params, **model_state})
    return Converted(filled.pop("params"), filled)


def official(model: PIPNet, backbone: str) -> Sources:
    """Name map of the whole network for `torch_weights.rename`."""
    sources = _backbone(backbone)
    for name in HEADS:
        sources |= torch_names.layer(name, name, linear, bias=True)
    if model.scaling < 1:
        sources |= torch_names.conv_norm("deconv1", "bn_deconv1", "deconv1", "bn_deconv1", transposed)
    # Layers that increase the stride, by `PIPNet.scaling`.
    extra_layers = {2: (5,), 4: (5, 6)}.get(model.scaling, ())
    for number in extra_layers:
        sources |= torch_names.layer(f"layer{number}", f"layer{number}", convolution, bias=True)
        sources |= torch_names.norm(f"bn{number}", f"bn{number}")
    return sources


def _backbone(name: str) -> Sources:
    name_map = torch_names.resnet if name.startswith("resnet") else torch_names.mobilenet
    return name_map(name, "backbone/")


def transposed(weight: np.ndarray) -> np.ndarray:
    """Kernel (in,out,H,W) of PyTorch's transposed convolution, flipped, as (H,W,in,out) of Flax's `ConvTranspose`."""
    return weight.transpose(2, 3, 0, 1)[::-1, ::-1]
