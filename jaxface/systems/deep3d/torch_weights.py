"""Checkpoints of Deep3DFaceRecon_pytorch: `epoch_N.pth`, of which only the network `net_recon` is read."""

from typing import Any

from jaxface import torch_names
from jaxface.errors import UserError
from jaxface.system import Converted
from jaxface.systems.deep3d.model import RNet, heads_of
from jaxface.systems.deep3d.networks import confidence_net
from jaxface.torch_weights import Tensors, linear, rename, unwrap

ARCFACE = "layer1.0.prelu.weight"
NETWORK, REST = "net_recon", ("opt_", "sched_")


def from_torch(model: RNet, size: str, tensors: Tensors, params: Any, model_state: Any) -> Converted:
    """The parameters and batch statistics of a checkpoint, `{"net_recon": …}` or its bare state dict.

    `size` is that of the backbone ("resnet50"). The prefix `module.` is optional; optimizer and schedule are ignored. A
    C-Net keeps its values, as there are no official weights of one. Raises UserError naming every missing, left-over or
    misshaped entry.
    """
    if ARCFACE in tensors:
        raise UserError("these are ArcFace weights, which need no conversion: name the file in config.loss.recognition")
    kept = {name: value for name, value in tensors.items() if not name.startswith(REST)}
    kept = torch_names.without_counters(unwrap(kept, NETWORK))
    sources = torch_names.resnet(size, "backbone/", "backbone.")
    for index, head in enumerate(heads_of(model.sizes)):
        sources |= torch_names.layer(head, f"final_layers.{index}", linear, bias=True)
    own = {name: value for name, value in params.items() if name != confidence_net.NAME}
    filled = rename(kept, sources, {"params": own, **model_state})
    return Converted({**params, **filled.pop("params")}, filled)
