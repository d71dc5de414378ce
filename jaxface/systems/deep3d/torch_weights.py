"""Checkpoints of Deep3DFaceRecon_pytorch: `epoch_N.pth`, of which only the network `net_recon` is read."""

from typing import Any

from jaxface.nn.resnet import ResNet
from jaxface.systems.deep3d.model import RNet, heads_of
from jaxface.torch_weights import Tensors, Transform, convolution, linear, rename, unwrap, vector

Sources = dict[str, tuple[str, Transform]]
NETWORK, OPTIMIZER = "net_recon", ("opt_", "sched_")


def from_torch(model: RNet, tensors: Tensors, params: Any, extra: Any) -> tuple[Any, Any]:
    """(params, extra) filled from a checkpoint `{"net_recon": …}` or its bare state dict, with or without `module.`.

    Optimizer and schedule are left out. UserError names every missing, left-over or misshaped entry.
    """
    tensors = unwrap(tensors, NETWORK)
    kept = {name: value for name, value in tensors.items() if not name.startswith(OPTIMIZER)}
    kept = {name: value for name, value in unwrap(kept).items() if not name.endswith("num_batches_tracked")}
    sources = backbone_sources(model.backbone)
    for index, head in enumerate(heads_of(model.sizes)):
        sources[f"params/{head}/kernel"] = (f"final_layers.{index}.weight", linear)
        sources[f"params/{head}/bias"] = (f"final_layers.{index}.bias", vector)
    filled = rename(kept, sources, {"params": params, **extra})
    return filled.pop("params"), filled


def backbone_sources(backbone: ResNet) -> Sources:
    """The name map of the ResNet, torchvision's names behind `backbone.`."""
    sources = _layer("backbone/conv1", "backbone.conv1") | _norm("backbone/bn1", "backbone.bn1")
    convolutions = 3 if backbone.bottleneck else 2
    for stage, depth in enumerate(backbone.depths, start=1):
        for index in range(depth):
            path, name = f"backbone/layer{stage}_{index}", f"backbone.layer{stage}.{index}"
            for number in range(1, convolutions + 1):
                sources |= _layer(f"{path}/conv{number}", f"{name}.conv{number}")
                sources |= _norm(f"{path}/bn{number}", f"{name}.bn{number}")
            if index == 0 and (stage > 1 or backbone.bottleneck):
                sources |= _layer(f"{path}/conv_shortcut", f"{name}.downsample.0")
                sources |= _norm(f"{path}/bn_shortcut", f"{name}.downsample.1")
    return sources


def _layer(path: str, name: str) -> Sources:
    return {f"params/{path}/kernel": (f"{name}.weight", convolution)}


def _norm(path: str, name: str) -> Sources:
    return {
        f"params/{path}/scale": (f"{name}.weight", vector),
        f"params/{path}/bias": (f"{name}.bias", vector),
        f"batch_stats/{path}/mean": (f"{name}.running_mean", vector),
        f"batch_stats/{path}/var": (f"{name}.running_var", vector),
    }
