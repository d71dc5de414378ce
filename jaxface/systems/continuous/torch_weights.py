"""Checkpoints for the continuous detector: ImageNet ConvNeXt backbones, and the whole unofficial PyTorch rebuild.

Names: facebookresearch/ConvNeXt and ConvNeXt-V2, timm, torchvision, and florisdf/continuous_landmarks.
"""

import dataclasses
from typing import Any

import numpy as np

from jaxface.errors import UserError
from jaxface.nn.convnext import ConvNeXt
from jaxface.system import Converted
from jaxface.systems.continuous.model import Continuous, PointwisePredictor
from jaxface.torch_weights import Tensors, Transform, convolution, linear, rename, unwrap, vector

Sources = dict[str, tuple[str, Transform]]
UNOFFICIAL_ENCODER = "FeatureExtractor.model."


@dataclasses.dataclass(frozen=True)
class Flavour:
    """How one library names a ConvNeXt; `reduce`, `block`, `stem` are templates of stage s, block b, part p (0, 1)."""

    name: str
    reduce: str
    block: str
    layers: tuple[str, str, str, str]  # depthwise, norm, expand, project
    scale: str
    response: tuple[str, str]  # V2's scale and bias
    norm: str
    classifier: str
    stem: str = ""  # template of the stem where it differs from the downsamplings

    def reduction(self, stage: int, part: int) -> str:
        """Name of a stage's two first layers: the stem (convolution, norm) or a downsampling (norm, convolution)."""
        template = self.stem if self.stem and stage == 0 else self.reduce
        return template.format(s=stage, s2=2 * stage, p=part)


FACEBOOK = Flavour(
    name="Facebook",
    reduce="downsample_layers.{s}.{p}",
    block="stages.{s}.{b}.",
    layers=("dwconv", "norm", "pwconv1", "pwconv2"),
    scale="gamma",
    response=("grn.gamma", "grn.beta"),
    norm="norm",
    classifier="head",
)
TIMM = Flavour(
    name="timm",
    stem="stem.{p}",
    reduce="stages.{s}.downsample.{p}",
    block="stages.{s}.blocks.{b}.",
    layers=("conv_dw", "norm", "mlp.fc1", "mlp.fc2"),
    scale="gamma",
    response=("mlp.grn.weight", "mlp.grn.bias"),
    norm="head.norm",
    classifier="head.fc",
)
TORCHVISION = Flavour(
    name="torchvision",
    reduce="features.{s2}.{p}",
    block="features.{s3}.{b}.",
    layers=("block.0", "block.2", "block.3", "block.5"),
    scale="layer_scale",
    response=("", ""),
    norm="classifier.0",
    classifier="classifier.2",
)


def from_torch(model: Continuous, tensors: Tensors, params: Any, model_state: Any) -> Converted:
    """The parameters of a checkpoint.

    An ImageNet backbone (recognised by its names) fills the encoder only: its classifier, and its last norm if the
    model has none, are dropped, and the rest of the model stays randomly initialised. The unofficial reimplementation's
    state dict fills everything. Raises UserError naming every missing, left-over or misshaped entry.
    """
    tensors = unwrap(tensors, "model", "state_dict", "model_state_dict")
    if any(name.startswith(UNOFFICIAL_ENCODER) for name in tensors):
        return Converted(*_from_unofficial(model, tensors, params, model_state))
    flavour = _recognise(tensors)
    dropped = _dropped(flavour, model.encoder, tensors)
    kept = {name: value for name, value in tensors.items() if name not in dropped}
    encoder = rename(kept, encoder_sources(flavour, model.encoder), params["encoder"])
    note = (
        f"The backbone is filled from a {flavour.name} checkpoint; dropped: {', '.join(dropped) or 'nothing'}. "
        "Everything behind it is randomly initialised."
    )
    return Converted({**params, "encoder": encoder}, model_state, notes=(note,))


def _recognise(tensors: Tensors) -> Flavour:
    for flavour in (FACEBOOK, TIMM, TORCHVISION):
        if f"{flavour.reduction(0, 0)}.weight" in tensors:
            return flavour
    some = ", ".join(list(tensors)[:5])
    raise UserError(
        "the checkpoint is neither a ConvNeXt (Facebook, timm or torchvision names) nor the unofficial detector; "
        f"it begins with {some}"
    )


def _dropped(flavour: Flavour, encoder: ConvNeXt, tensors: Tensors) -> list[str]:
    layers = [flavour.classifier] if encoder.final_norm else [flavour.norm, flavour.classifier]
    names = [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    return [name for name in names if name in tensors]


def _affine(path: str, name: str, transform: Transform, kernel: str = "kernel") -> Sources:
    return {f"{path}/{kernel}": (f"{name}.weight", transform), f"{path}/bias": (f"{name}.bias", vector)}


def encoder_sources(flavour: Flavour, encoder: ConvNeXt) -> Sources:
    """The name map of a ConvNeXt as `jaxface.torch_weights.rename` takes it; paths are those inside the encoder."""
    sources: Sources = {}
    for stage, depth in enumerate(encoder.depths):
        norm, patches = (0, 1) if stage else (1, 0)
        paths = (f"stage{stage}_norm", f"stage{stage}_downsample") if stage else ("stem_norm", "stem")
        sources |= _affine(paths[0], flavour.reduction(stage, norm), vector, "scale")
        sources |= _affine(paths[1], flavour.reduction(stage, patches), convolution)
        for block in range(depth):
            prefix = flavour.block.format(s=stage, s3=2 * stage + 1, b=block)
            sources |= _block_sources(flavour, f"stage{stage}_block{block}", prefix, encoder.version)
    if encoder.final_norm:
        sources |= _affine("norm", flavour.norm, vector, "scale")
    return sources


def _block_sources(flavour: Flavour, path: str, prefix: str, version: int) -> Sources:
    depthwise, norm, expand, project = (prefix + layer for layer in flavour.layers)
    sources = _affine(f"{path}/depthwise", depthwise, convolution) | _affine(f"{path}/norm", norm, vector, "scale")
    sources |= _affine(f"{path}/expand", expand, linear) | _affine(f"{path}/project", project, linear)
    if version == 1:
        return sources | {f"{path}/scale": (prefix + flavour.scale, vector)}
    scale, bias = (prefix + name for name in flavour.response)
    return sources | {f"{path}/response/scale": (scale, vector), f"{path}/response/bias": (bias, vector)}


def _from_unofficial(model: Continuous, tensors: Tensors, params: Any, model_state: Any) -> tuple[Any, Any]:
    pointwise = isinstance(model.predictor, PointwisePredictor)
    if model.pool is not None or not (pointwise or model.predictor.kind == "transformer"):
        raise UserError('the unofficial checkpoint needs pool "mean" and predictor "mlp" or "transformer"')
    kept = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    sources = {
        f"encoder/{path}": (UNOFFICIAL_ENCODER + name, transform)
        for path, (name, transform) in encoder_sources(FACEBOOK, model.encoder).items()
    }
    for layer in range(2):
        sources |= _affine(f"query_encoder/mlp/layer{layer}", f"PositionEncoder.model.{2 * layer}", linear)
    sources |= _unofficial_mlp(model) if pointwise else _unofficial_transformer(model)
    sources = {f"params/{path}": source for path, source in sources.items()}
    if not pointwise:
        sources |= _unofficial_statistics(model)
    filled = rename(kept, sources, {"params": params, **model_state})
    return filled.pop("params"), filled


def _first_layer(name: str, query_width: int) -> Sources:
    """The layer on (code, features): one matrix there, two here."""

    def code(weight: np.ndarray) -> np.ndarray:
        return linear(weight[:, :query_width])

    def features(weight: np.ndarray) -> np.ndarray:
        return linear(weight[:, query_width:])

    return _affine("predictor/first/features", name, features) | {
        "predictor/first/code/kernel": (f"{name}.weight", code)
    }


def _unofficial_mlp(model: Continuous) -> Sources:
    prefix = "LandmarkPredictor.model.model."
    sources = _first_layer(f"{prefix}0", model.query_encoder.width)
    for layer in range(model.predictor.layers):
        sources |= _affine(f"predictor/mlp/layer{layer}", f"{prefix}{2 * layer + 2}", linear)
    return sources


def _unofficial_transformer(model: Continuous) -> Sources:
    prefix = "LandmarkPredictor.model."
    sources = _first_layer(f"{prefix}pre_layer", model.query_encoder.width)
    for index in range(model.predictor.layers):
        path, name = f"predictor/block{index}", f"{prefix}xca_blocks.{index}."
        for number in (1, 2, 3):
            sources[f"{path}/scale{number}"] = (f"{name}gamma{number}", vector)
            sources |= _affine(f"{path}/norm{number}", f"{name}norm{number}", vector, "scale")
        sources[f"{path}/attention/temperature"] = (f"{name}attn.temperature", np.asarray)
        sources[f"{path}/attention/qkv/kernel"] = (f"{name}attn.qkv.weight", linear)
        sources |= _affine(f"{path}/attention/project", f"{name}attn.proj", linear)
        for number in (0, 1):
            sources |= _affine(f"{path}/mlp/layer{number}", f"{name}mlp.fc{number + 1}", linear)
            sources |= _affine(f"{path}/local/affine{number}", f"{name}local_mp.conv{number + 1}", vector, "scale")
        sources |= _affine(f"{path}/local/norm", f"{name}local_mp.bn", vector, "scale")
    return sources | _affine("predictor/last", f"{prefix}post_layer", linear)


def _unofficial_statistics(model: Continuous) -> Sources:
    return {
        f"batch_stats/predictor/block{index}/local/norm/{statistic}": (
            f"LandmarkPredictor.model.xca_blocks.{index}.local_mp.bn.running_{statistic}",
            vector,
        )
        for index in range(model.predictor.layers)
        for statistic in ("mean", "var")
    }
