"""PyTorch checkpoints for R-Net: `epoch_N.pth` of Deep3DFaceRecon_pytorch, and torchvision's ImageNet backbones."""

from typing import Any

import numpy as np

from jaxface import torch_names
from jaxface.errors import UserError
from jaxface.system import Converted
from jaxface.systems.deep3d.model import RNet, output_sizes
from jaxface.systems.deep3d.networks import confidence_net, size_net
from jaxface.torch_weights import Tensors, linear, rename, unwrap

# An entry that only an ArcFace checkpoint has.
ARCFACE_ENTRY = "layer1.0.prelu.weight"
NETWORK = "net_recon"
# Prefixes of the optimizer's and the schedule's states, which are not read.
TRAINING_STATES = ("opt_", "sched_")
# The single output layer of networks trained with --use_last_fc, and the layers that it replaces.
LAST_LAYER, LAYERS = "backbone.fc", "final_layers.{}"


def from_torch(model: RNet, backbone: str, tensors: Tensors, params: Any, model_state: Any) -> Converted:
    """Flax variables from a checkpoint `{"net_recon": …}` or its bare state dict, with or without `module.`.

    A checkpoint of --use_last_fc has one output layer in place of seven, which is split. An ImageNet classifier
    (torchvision's names) fills the backbone only, as the original starts its training; a note says so.

    Args:
        model: the network.
        backbone: "resnet18" or "resnet50", the size of `model.backbone`.
        tensors: the checkpoint's arrays by name.
        params: parameters of the expected shapes. Those of a C-Net and a SizeNet are kept: none were published.
        model_state: batch statistics of the expected shapes.

    Raises:
        UserError: entries are missing, left over or of another shape; the message names each of them.
    """
    if ARCFACE_ENTRY in tensors:
        raise UserError("these are ArcFace weights, which need no conversion; name the file in config.loss.recognition")
    network = {name: value for name, value in tensors.items() if not name.startswith(TRAINING_STATES)}
    network = torch_names.without_counters(unwrap(network, NETWORK, "state_dict", "model"))
    if torch_names.is_imagenet(network, [f"{LAYERS.format(0)}.weight"]):
        return torch_names.fill_backbone(network, torch_names.resnet(backbone, "backbone/"), params, model_state)
    sources = torch_names.resnet(backbone, "backbone/", "backbone.")
    for index, name in enumerate(output_sizes(model.sizes)):
        sources |= torch_names.layer(name, LAYERS.format(index), linear, bias=True)
    ours = (confidence_net.NAME, size_net.NAME)
    expected = {name: value for name, value in params.items() if name not in ours}
    converted = rename(_split_last_layer(network, model), sources, {"params": expected, **model_state})
    return Converted({**params, **converted.pop("params")}, converted)


def _split_last_layer(tensors: Tensors, model: RNet) -> Tensors:
    """The entries with the rows of LAST_LAYER as the seven output layers, if it is there."""
    if f"{LAST_LAYER}.weight" not in tensors:
        return tensors
    sizes = list(output_sizes(model.sizes).values())
    bounds = np.cumsum(sizes)[:-1]
    split = {name: value for name, value in tensors.items() if not name.startswith(f"{LAST_LAYER}.")}
    for part in ("weight", "bias"):
        entry = tensors.get(f"{LAST_LAYER}.{part}")
        if entry is None or len(entry) != sum(sizes):
            rows = "missing" if entry is None else f"of {len(entry)} rows"
            raise UserError(f"{LAST_LAYER}.{part} is {rows}, the configured model has {sum(sizes)} outputs; change it")
        for index, rows in enumerate(np.split(entry, bounds)):
            split[f"{LAYERS.format(index)}.{part}"] = rows
    return split
