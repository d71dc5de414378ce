"""Continuous landmark detection on ConvNeXt in stock eager PyTorch, the baseline of `launch.bench`. Needs torch."""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from .benchmark import Run
from .torch_runs import DEVICE, both_formats, forwards, wait


class _ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of an NCHW map."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class _Block(nn.Module):
    """The ConvNeXt V1 block as the official code, timm and torchvision run it: channels last for norm and MLP."""

    def __init__(self, width: int):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.expand, self.project = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.project(functional.gelu(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """Image (B,3,H,W) to the layer-normalised spatial mean of the last map (B,C)."""

    def __init__(self, depths: Sequence[int], dims: Sequence[int]):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, dims[0], 4, 4), _ChannelNorm(dims[0], eps=1e-6)]
        for stage, (depth, width) in enumerate(zip(depths, dims, strict=True)):
            if stage:
                layers += [_ChannelNorm(dims[stage - 1], eps=1e-6), nn.Conv2d(dims[stage - 1], width, 2, 2)]
            layers += [_Block(width) for _ in range(depth)]
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.norm(self.layers(image).mean((2, 3)))


class Continuous(nn.Module):
    """ConvNeXt, query encoder and MLP predictor on their concatenation, as in florisdf/continuous_landmarks."""

    def __init__(self, depths: Sequence[int], dims: Sequence[int]):
        super().__init__()
        self.encoder = ConvNeXt(depths, dims)
        self.query_encoder = nn.Sequential(nn.Linear(3, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU())
        layers: list[nn.Module] = []
        for inputs in (64 + dims[-1], 512, 512, 512):
            layers += [nn.Linear(inputs, 512), nn.GELU()]
        self.predictor = nn.Sequential(*layers, nn.Linear(512, 3))

    def forward(self, image: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        features = self.encoder(image)[:, None].expand(-1, queries.shape[1], -1)
        return self.predictor(torch.cat([self.query_encoder(queries), features], -1))


def train_step(
    net: nn.Module, optimizer: torch.optim.Optimizer, image: torch.Tensor, queries: torch.Tensor, target: torch.Tensor
) -> None:
    """Gaussian negative log-likelihood, gradient clipping to norm 1, one update: a step of `configs/continuous.py`."""
    optimizer.zero_grad()
    out = net(image, queries)
    log_sigma = out[..., 2].clamp(-7, 3)
    squared = (out[..., :2] - target).square().sum(-1)
    (squared / (2 * torch.exp(2 * log_sigma)) + 2 * log_sigma).mean().backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    wait()


def continuous(
    image: np.ndarray, queries: np.ndarray, target: np.ndarray | None, depths: Sequence[int], dims: Sequence[int]
) -> dict[str, Run]:
    """Runs by memory format: forward passes, or training steps where `target` is given.

    image (B,H,W,3), queries (B,N,3), target (B,N,2).
    """
    others = [torch.from_numpy(array).to(DEVICE) for array in (queries, target) if array is not None]
    make = functools.partial(Continuous, depths, dims)
    if target is None:
        return forwards(make, image, *others)

    def bind(net: nn.Module, pixels: torch.Tensor) -> Run:
        optimizer = torch.optim.AdamW(net.parameters(), 5e-4, betas=(0.9, 0.95), weight_decay=0.05)
        return functools.partial(train_step, net.train(), optimizer, pixels, *others)

    return both_formats(make, image, bind)
