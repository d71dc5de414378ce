"""Weights of Deep3DFaceRecon_pytorch: checkpoints `epoch_N.pth`, of which only the network `net_recon` is read."""

from typing import Any

from jaxface import torch_names
from jaxface.errors import UserError
from jaxface.system import Converted
from jaxface.systems.deep3d.model import RNet, output_sizes
from jaxface.systems.deep3d.networks import confidence_net
from jaxface.torch_weights import Tensors, linear, rename, unwrap

# An entry that only an ArcFace checkpoint has.
ARCFACE_ENTRY = "layer1.0.prelu.weight"
NETWORK = "net_recon"
# Prefixes of the optimizer's and the schedule's states, which are not read.
TRAINING_STATES = ("opt_", "sched_")


def from_torch(model: RNet, backbone: str, tensors: Tensors, params: Any, model_state: Any) -> Converted:
    """Flax variables from a checkpoint `{"net_recon": …}` or its bare state dict, with or without `module.`.

    Args:
        model: the network.
        backbone: "resnet18" or "resnet50", the size of `model.backbone`.
        tensors: the checkpoint's arrays by name.
        params: parameters of the expected shapes. A C-Net's are kept, because no C-Net weights were published.
        model_state: batch statistics of the expected shapes.

    Raises:
        UserError: entries are missing, left over or of another shape; the message names each of them.
    """
    if ARCFACE_ENTRY in tensors:
        raise UserError("these are ArcFace weights, which need no conversion: name the file in config.loss.recognition")
    network = {name: value for name, value in tensors.items() if not name.startswith(TRAINING_STATES)}
    network = torch_names.without_counters(unwrap(network, NETWORK))
    sources = torch_names.resnet(backbone, "backbone/", "backbone.")
    for index, name in enumerate(output_sizes(model.sizes)):
        sources |= torch_names.layer(name, f"final_layers.{index}", linear, bias=True)
    expected = {name: value for name, value in params.items() if name != confidence_net.NAME}
    converted = rename(network, sources, {"params": expected, **model_state})
    return Converted({**params, **converted.pop("params")}, converted)
