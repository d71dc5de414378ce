"""PyTorch checkpoints for the continuous detector: ImageNet ConvNeXt backbones and the unofficial reimplementation.

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
# Prefix of the encoder's entries in the unofficial reimplementation.
UNOFFICIAL_ENCODER = "FeatureExtractor.model."


@dataclasses.dataclass(frozen=True)
class NamingScheme:
    """How one library names the entries of a ConvNeXt.

    `downsample`, `block` and `stem` are format strings with the fields s (stage), s2 = 2s, s3 = 2s + 1, b (block) and
    p (layer, 0 or 1).

    Attributes:
        name: the library.
        downsample: the two layers between stages.
        block: prefix of a block.
        layers: names in a block of the depthwise convolution, norm, expansion and projection.
        scale: layer scale of a V1 block.
        response_norm: scale and bias of a V2 block's global response normalisation.
        norm: the final norm.
        classifier: the ImageNet classifier.
        stem: the two layers of the stem, if named unlike `downsample`.
    """

    name: str
    downsample: str
    block: str
    layers: tuple[str, str, str, str]
    scale: str
    response_norm: tuple[str, str]
    norm: str
    classifier: str
    stem: str = ""

    def downsample_layer(self, stage: int, layer: int) -> str:
        """Name of one of a stage's first two layers: stem (convolution, norm) or downsampling (norm, convolution)."""
        template = self.stem if self.stem and stage == 0 else self.downsample
        return template.format(s=stage, s2=2 * stage, p=layer)


FACEBOOK = NamingScheme(
    name="Facebook",
    downsample="downsample_layers.{s}.{p}",
    block="stages.{s}.{b}.",
    layers=("dwconv", "norm", "pwconv1", "pwconv2"),
    scale="gamma",
    response_norm=("grn.gamma", "grn.beta"),
    norm="norm",
    classifier="head",
)
TIMM = NamingScheme(
    name="timm",
    stem="stem.{p}",
    downsample="stages.{s}.downsample.{p}",
    block="stages.{s}.blocks.{b}.",
    layers=("conv_dw", "norm", "mlp.fc1", "mlp.fc2"),
    scale="gamma",
    response_norm=("mlp.grn.weight", "mlp.grn.bias"),
    norm="head.norm",
    classifier="head.fc",
)
TORCHVISION = NamingScheme(
    name="torchvision",
    downsample="features.{s2}.{p}",
    block="features.{s3}.{b}.",
    layers=("block.0", "block.2", "block.3", "block.5"),
    scale="layer_scale",
    response_norm=("", ""),
    norm="classifier.0",
    classifier="classifier.2",
)


def from_torch(model: Continuous, tensors: Tensors, params: Any, model_state: Any) -> Converted:
    """Parameters and model state from a PyTorch checkpoint.

    An ImageNet backbone, recognised by its names, fills the encoder only: its classifier, and its final norm if the
    model has none, are dropped, and all other layers stay randomly initialised; `Converted.notes` states this. A state
    dict of the unofficial reimplementation fills the whole network.

    Args:
        model: the network.
        tensors: entries of the checkpoint by name.
        params: randomly initialised parameters.
        model_state: initial batch statistics.

    Returns:
        The checkpoint's values.

    Raises:
        UserError: entries are missing, left over or of another shape; the message names them all. Or the encoder is not
            a ConvNeXt.
    """
    tensors = unwrap(tensors, "model", "state_dict", "model_state_dict")
    if any(name.startswith(UNOFFICIAL_ENCODER) for name in tensors):
        return Converted(*_from_unofficial(model, tensors, params, model_state))
    if not isinstance(model.encoder, ConvNeXt):
        raise UserError("config.model.encoder: an ImageNet checkpoint can be read for a ConvNeXt only; choose one")
    scheme = _recognise(tensors)
    dropped = _unused_entries(scheme, model.encoder, tensors)
    kept = {name: value for name, value in tensors.items() if name not in dropped}
    encoder = rename(kept, encoder_sources(scheme, model.encoder), params["encoder"])
    note = (
        f"Only the encoder is loaded, from a {scheme.name} checkpoint (dropped entries: {', '.join(dropped) or 'none'})"
        "; all other layers are randomly initialised."
    )
    return Converted({**params, "encoder": encoder}, model_state, notes=(note,))


def _recognise(tensors: Tensors) -> NamingScheme:
    for scheme in (FACEBOOK, TIMM, TORCHVISION):
        if f"{scheme.downsample_layer(stage=0, layer=0)}.weight" in tensors:
            return scheme
    first_names = ", ".join(list(tensors)[:5])
    raise UserError(
        "checkpoint: neither a ConvNeXt (Facebook, timm or torchvision names) nor a state dict of "
        f"florisdf/continuous_landmarks; choose another --torch (its first entries are {first_names})"
    )


def _unused_entries(scheme: NamingScheme, encoder: ConvNeXt, tensors: Tensors) -> list[str]:
    layers = [scheme.classifier] if encoder.final_norm else [scheme.norm, scheme.classifier]
    names = [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    return [name for name in names if name in tensors]


def _affine(path: str, name: str, transform: Transform, kernel: str = "kernel") -> Sources:
    return {f"{path}/{kernel}": (f"{name}.weight", transform), f"{path}/bias": (f"{name}.bias", vector)}


def encoder_sources(scheme: NamingScheme, encoder: ConvNeXt) -> Sources:
    """Name map of a ConvNeXt for `jaxface.torch_weights.rename`: path in the encoder to entry and transform."""
    sources: Sources = {}
    for stage, depth in enumerate(encoder.depths):
        norm, patches = (0, 1) if stage else (1, 0)
        paths = (f"stage{stage}_norm", f"stage{stage}_downsample") if stage else ("stem_norm", "stem")
        sources |= _affine(paths[0], scheme.downsample_layer(stage, norm), vector, "scale")
        sources |= _affine(paths[1], scheme.downsample_layer(stage, patches), convolution)
        for block in range(depth):
            prefix = scheme.block.format(s=stage, s3=2 * stage + 1, b=block)
            sources |= _block_sources(scheme, f"stage{stage}_block{block}", prefix, encoder.version)
    if encoder.final_norm:
        sources |= _affine("norm", scheme.norm, vector, "scale")
    return sources


def _block_sources(scheme: NamingScheme, path: str, prefix: str, version: int) -> Sources:
    depthwise, norm, expand, project = (prefix + layer for layer in scheme.layers)
    sources = _affine(f"{path}/depthwise", depthwise, convolution) | _affine(f"{path}/norm", norm, vector, "scale")
    sources |= _affine(f"{path}/expand", expand, linear) | _affine(f"{path}/project", project, linear)
    if version == 1:
        return sources | {f"{path}/scale": (prefix + scheme.scale, vector)}
    scale, bias = (prefix + name for name in scheme.response_norm)
    return sources | {f"{path}/response/scale": (scale, vector), f"{path}/response/bias": (bias, vector)}


def _from_unofficial(model: Continuous, tensors: Tensors, params: Any, model_state: Any) -> tuple[Any, Any]:
    pointwise = isinstance(model.predictor, PointwisePredictor)
    if model.pool is not None or not (pointwise or model.predictor.kind == "transformer"):
        raise UserError(
            "checkpoint: of florisdf/continuous_landmarks, for another model; set config.model.pool to mean and "
            "config.model.predictor to mlp or transformer"
        )
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
    """`ConditionedDense`, whose two matrices are one in the checkpoint, for concatenated (code, features)."""

    def code_part(weight: np.ndarray) -> np.ndarray:
        return linear(weight[:, :query_width])

    def features_part(weight: np.ndarray) -> np.ndarray:
        return linear(weight[:, query_width:])

    return {
        "predictor/first/code/kernel": (f"{name}.weight", code_part),
        **_affine("predictor/first/features", name, features_part),
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
