"""Name maps of the backbones that several systems load, as `sources` of `torch_weights.rename`.

Paths start with the collection, "params/" or "batch_stats/". The names are torchvision's for ResNet and MobileNetV2 and
those of the PIPNet repository for MobileNetV3. Counters of batches (`num_batches_tracked`) have no counterpart here:
remove them first with `without_counters`.
"""

from collections.abc import Collection
from typing import Any

from jaxface.nn.mobilenet import SIZES as MOBILENETS
from jaxface.nn.resnet import SIZES as RESNETS
from jaxface.system import Converted
from jaxface.torch_weights import Tensors, Transform, convolution, linear, rename, vector

Sources = dict[str, tuple[str, Transform]]


def without_counters(tensors: Tensors) -> Tensors:
    """The entries without the batch counters of batch norm."""
    return {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}


# First parts of the names of ImageNet classifiers.
CLASSIFIERS = ("fc.", "classifier.")


def is_imagenet(tensors: Tensors, heads: Collection[str]) -> bool:
    """Whether a checkpoint is an ImageNet classifier: it has a classifier and none of the entries `heads`."""
    return any(name.startswith(CLASSIFIERS) for name in tensors) and not any(name in tensors for name in heads)


def fill_backbone(tensors: Tensors, sources: Sources, params: Any, model_state: Any) -> Converted:
    """Variables whose subtree "backbone" comes from an ImageNet classifier; a note names what is dropped.

    Args:
        tensors: entries of the checkpoint by name, without batch counters.
        sources: name map of the backbone for `rename`, paths below "backbone/".
        params: randomly initialised parameters.
        model_state: initial batch statistics.

    Raises:
        UserError: entries of the backbone are missing, left over or of another shape.
    """
    dropped = [name for name in tensors if name.startswith(CLASSIFIERS)]
    kept = {name: value for name, value in tensors.items() if name not in dropped}
    expected = {"params": params, **model_state}
    filled = rename(kept, sources, {name: {"backbone": tree["backbone"]} for name, tree in expected.items()})
    note = (
        f"Only the backbone is loaded, from an ImageNet checkpoint (dropped entries: {', '.join(dropped)}); all other "
        "layers are randomly initialised."
    )
    merged = {name: {**tree, **filled[name]} for name, tree in expected.items()}
    return Converted(merged.pop("params"), merged, notes=(note,))


def norm(path: str, name: str) -> Sources:
    """Sources of the `BatchNorm` at `path`, called `name` in the checkpoint."""
    params = {"scale": "weight", "bias": "bias"}
    statistics = {"mean": "running_mean", "var": "running_var"}
    return {f"params/{path}/{ours}": (f"{name}.{theirs}", vector) for ours, theirs in params.items()} | {
        f"batch_stats/{path}/{ours}": (f"{name}.{theirs}", vector) for ours, theirs in statistics.items()
    }


def layer(path: str, name: str, transform: Transform, bias: bool = False) -> Sources:
    """Sources of the convolution or linear layer at `path`, called `name` in the checkpoint."""
    kernel = {f"params/{path}/kernel": (f"{name}.weight", transform)}
    return kernel | ({f"params/{path}/bias": (f"{name}.bias", vector)} if bias else {})


def conv_norm(path: str, norm_path: str, name: str, norm_name: str, transform: Transform = convolution) -> Sources:
    """Sources of a convolution without bias and of the batch norm after it."""
    return layer(path, name, transform) | norm(norm_path, norm_name)


def resnet(size: str, path: str = "", prefix: str = "") -> Sources:
    """Sources of `nn.resnet.ResNet` of a size ("resnet50") below `path` ("backbone/"), names below `prefix`."""
    depths, bottleneck = RESNETS[size]
    sources = conv_norm(f"{path}conv1", f"{path}bn1", f"{prefix}conv1", f"{prefix}bn1")
    for stage, depth in enumerate(depths, start=1):
        for index in range(depth):
            ours, theirs = f"{path}layer{stage}_{index}/", f"{prefix}layer{stage}.{index}."
            for number in range(1, 4 if bottleneck else 3):
                names = f"conv{number}", f"bn{number}"
                sources |= conv_norm(*(ours + name for name in names), *(theirs + name for name in names))
            if index == 0 and (stage > 1 or bottleneck):
                shortcut = f"{theirs}downsample."
                sources |= conv_norm(f"{ours}conv_shortcut", f"{ours}bn_shortcut", f"{shortcut}0", f"{shortcut}1")
    return sources


def mobilenet(size: str, path: str = "", prefix: str = "") -> Sources:
    """Sources of `nn.mobilenet.MobileNet` of a size ("mobilenet_v2") below `path`, names below `prefix`."""
    variant, features = MOBILENETS[size], f"{prefix}features."
    second = size == "mobilenet_v2"
    end = f"{features}{len(variant.blocks) + 1}" if second else f"{prefix}conv"
    sources = conv_norm(f"{path}stem", f"{path}stem_norm", f"{features}0.0", f"{features}0.1")
    sources |= conv_norm(f"{path}last", f"{path}last_norm", f"{end}.0", f"{end}.1", linear)
    width = variant.stem
    for number, block in enumerate(variant.blocks, start=1):
        expands = block.hidden != width
        names = _v2_names(expands) if second else _v3_names(expands)
        ours, theirs, width = f"{path}block{number}/", f"{features}{number}.conv.", block.out
        for part, (conv, after) in names.items():
            if part == "depthwise":
                sources[f"params/{ours}depthwise"] = (f"{theirs}{conv}.weight", convolution)
                sources |= norm(f"{ours}depthwise_norm", theirs + after)
            else:
                sources |= conv_norm(ours + part, f"{ours}{part}_norm", theirs + conv, theirs + after, linear)
        if block.squeeze:
            for part, index in (("reduce", 0), ("expand", 2)):
                sources |= layer(f"{ours}squeeze/{part}", f"{theirs}5.fc.{index}", linear, bias=True)
    return sources


def _v2_names(expands: bool) -> dict[str, tuple[str, str]]:
    """Names of the convolution and of the norm of each part of a MobileNetV2 block."""
    if expands:
        return {"expand": ("0.0", "0.1"), "depthwise": ("1.0", "1.1"), "project": ("2", "3")}
    return {"depthwise": ("0.0", "0.1"), "project": ("1", "2")}


def _v3_names(expands: bool) -> dict[str, tuple[str, str]]:
    """Names of the convolution and of the norm of each part of a MobileNetV3 block."""
    if expands:
        return {"expand": ("0", "1"), "depthwise": ("3", "4"), "project": ("7", "8")}
    return {"depthwise": ("0", "1"), "project": ("4", "5")}
