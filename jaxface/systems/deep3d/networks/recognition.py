"""ArcFace, the fixed recognition network of the perceptual loss: IResNet-50 and the alignment of its input.

Sources: Deng et al., "ArcFace", CVPR 2019; network and names of insightface's arcface_torch (backbones/iresnet.py),
weights `ms1mv3_arcface_r50_fp16/backbone.pth`; alignment of Deep3DFaceRecon_pytorch (util/preprocess.py, estimate_norm)
and kornia 0.5.5 (warp_affine). Differentiable in the image; never trained.
"""

import functools
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxface import torch_names, torch_weights
from jaxface.errors import UserError
from jaxface.nn.batch_norm import BatchNorm
from jaxface.nn.convolution import Conv
from jaxface.systems.deep3d.preprocessing.alignment import FIVE_OF_68

# Side of the input in pixels, blocks and channels per stage, length of the feature, side of the last map.
SIZE = 112
DEPTHS, WIDTHS = (3, 4, 14, 3), (64, 128, 256, 512)
FEATURES, LAST_SIDE = 512, 7
# Positions (x right, y down) of eyes, nose tip and mouth corners, image left first, in the input: arcface_src.
TEMPLATE_PX = np.float32(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)


class _Block(nn.Module):
    """Residual block: BN, 3x3, BN, PReLU, 3x3 with stride, BN; no activation after the sum."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = BatchNorm(name="bn1")(x)
        y = BatchNorm(name="bn2")(_convolution(y, self.width, 3, 1, "conv1"))
        y = BatchNorm(name="bn3")(_convolution(_prelu(self, y), self.width, 3, self.stride, "conv2"))
        if self.stride != 1 or x.shape[-1] != self.width:
            x = BatchNorm(name="bn_shortcut")(_convolution(x, self.width, 1, self.stride, "conv_shortcut"))
        return x + y


class IResNet(nn.Module):
    """Features (B,512), not normalised, of aligned faces (B,112,112,3), RGB in [0,1]."""

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        x = _convolution(2 * image - 1, WIDTHS[0], 3, 1, "conv1")
        x = _prelu(self, BatchNorm(name="bn1")(x))
        for stage, (depth, width) in enumerate(zip(DEPTHS, WIDTHS, strict=True)):
            for index in range(depth):
                x = _Block(width, 1 if index else 2, name=f"layer{stage + 1}_{index}")(x)
        x = BatchNorm(name="bn2")(x)
        return BatchNorm(name="features")(nn.Dense(FEATURES, name="fc")(x.reshape(len(x), -1)))


def _convolution(x: jax.Array, width: int, size: int, stride: int, name: str) -> jax.Array:
    return Conv(width, size, stride, use_bias=False, name=name)(x)


def _prelu(module: nn.Module, x: jax.Array) -> jax.Array:
    slope = module.param("prelu", nn.initializers.constant(0.25), x.shape[-1:])
    return jnp.where(x >= 0, x, slope * x)


def load(path: str) -> Any:
    """Variables of `IResNet` from a file of ArcFace weights. Raises UserError if it is missing or has other weights."""
    if not pathlib.Path(path).is_file():
        raise UserError(
            f"config.loss.recognition: no file {path}; give arcface_torch's ms1mv3_arcface_r50 backbone.pth"
        )
    return from_torch(torch_weights.read(path))


def from_torch(tensors: torch_weights.Tensors) -> Any:
    """Variables of `IResNet` from arcface_torch's state dict. Raises UserError naming every entry that does not fit."""
    network = torch_names.without_counters(torch_weights.unwrap(tensors, "state_dict", "model"))
    sources = torch_names.conv_norm("conv1", "bn1", "conv1", "bn1") | torch_names.norm("bn2", "bn2")
    sources |= torch_names.layer("fc", "fc", _channels_last, bias=True) | torch_names.norm("features", "features")
    sources["params/prelu"] = ("prelu.weight", torch_weights.vector)
    for stage, depth in enumerate(DEPTHS, start=1):
        for index in range(depth):
            sources |= _block_sources(f"layer{stage}_{index}/", f"layer{stage}.{index}.", shortcut=index == 0)
    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    expected = jax.eval_shape(IResNet().init, jax.random.key(0), image)
    return torch_weights.rename(network, sources, expected)


def _channels_last(weight: np.ndarray) -> np.ndarray:
    """Kernel of the last layer with its inputs in the order of a map flattened channels last."""
    return weight.reshape(FEATURES, -1, LAST_SIDE, LAST_SIDE).transpose(2, 3, 1, 0).reshape(-1, FEATURES)


def _block_sources(ours: str, theirs: str, shortcut: bool) -> torch_names.Sources:
    """Sources of a `_Block`, from its name prefix here and there."""
    sources = torch_names.norm(f"{ours}bn1", f"{theirs}bn1")
    for number in (1, 2):
        names = f"conv{number}", f"bn{number + 1}"
        sources |= torch_names.conv_norm(*(ours + name for name in names), *(theirs + name for name in names))
    if shortcut:
        names = f"{ours}conv_shortcut", f"{ours}bn_shortcut", f"{theirs}downsample.0", f"{theirs}downsample.1"
        sources |= torch_names.conv_norm(*names)
    return sources | {f"params/{ours}prelu": (f"{theirs}prelu.weight", torch_weights.vector)}


def alignment_matrix(landmarks: jax.Array, height: int) -> jax.Array:
    """Similarity transforms (B,2,3) from image pixels to ArcFace's input.

    Least squares over the five points, in closed form (Umeyama in 2D); the identity where the points coincide.

    Args:
        landmarks: (B,68,2) in pixels of the image, y up from its last row.
        height: of the image in pixels.
    """
    points = jnp.stack([landmarks[:, list(group)].mean(1) for group in FIVE_OF_68], 1)
    points = points * jnp.array([1.0, -1.0]) + jnp.array([0.0, height - 1.0])
    mean, template_mean = points.mean(1, keepdims=True), TEMPLATE_PX.mean(0)
    x, y = jnp.moveaxis(points - mean, -1, 0)
    u, v = (TEMPLATE_PX - template_mean).T
    variance = (x * x + y * y).sum(-1)
    divisor = jnp.where(variance > 0, variance, 1.0)
    cos, sin = (x * u + y * v).sum(-1) / divisor, (x * v - y * u).sum(-1) / divisor
    linear = jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], -2)
    offset = template_mean - (linear * mean).sum(-1)
    matrix = jnp.concatenate([linear, offset[..., None]], -1)
    return jnp.where((variance > 0)[:, None, None], matrix, jnp.eye(2, 3))


def warp(image: jax.Array, matrix: jax.Array, size: int = SIZE) -> jax.Array:
    """Images (B,size,size,3) warped by affine maps: bilinear, pixel centres at integers, black outside.

    Args:
        image: (B,H,W,3); the result is differentiable in it.
        matrix: (B,2,3) maps from pixels of `image` to pixels of the result.
        size: side of the result in pixels.
    """
    return jax.vmap(functools.partial(_warp_one, size=size))(image, matrix)


def _warp_one(image: jax.Array, matrix: jax.Array, size: int) -> jax.Array:
    (a, b, tx), (c, d, ty) = matrix
    row, column = jnp.indices((size, size)).astype(jnp.float32)
    determinant = a * d - b * c
    x = (d * (column - tx) - b * (row - ty)) / determinant
    y = (a * (row - ty) - c * (column - tx)) / determinant
    left, top = jnp.floor(x), jnp.floor(y)
    out = 0.0
    for sample_x, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
        for sample_y, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
            inside = (sample_x >= 0) & (sample_x < image.shape[1]) & (sample_y >= 0) & (sample_y < image.shape[0])
            index = [jnp.where(inside, position, 0).astype(jnp.int32) for position in (sample_y, sample_x)]
            out += jnp.where(inside, weight_x * weight_y, 0.0)[..., None] * image[index[0], index[1]]
    return out


def features(variables: Any, image: jax.Array, landmarks: jax.Array) -> jax.Array:
    """Unit features (B,512) of images whose faces are aligned by their landmarks.

    Args:
        variables: of `IResNet`.
        image: (B,H,W,3), RGB in [0,1].
        landmarks: (B,68,2) in pixels of `image`, y up. They carry no gradient, as in the original.
    """
    aligned = warp(image, jax.lax.stop_gradient(alignment_matrix(landmarks, image.shape[1])))
    raw = IResNet().apply(variables, aligned)
    return raw / jnp.maximum(jnp.sqrt((raw * raw).sum(-1, keepdims=True) + 1e-24), 1e-12)
