"""The networks of `launch.bench` as stock eager PyTorch has them: what our times are compared with. Needs torch."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class _ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of an NCHW map."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class _Block(nn.Module):
    """ConvNeXt V1's block as the official, timm's and torchvision's code run it: channels last for norm and MLP."""

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
    """Image (B,3,H,W) to the normalised mean of the last map (B,C)."""

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
    """ConvNeXt, query encoder and MLP predictor on the concatenation, as the unofficial rebuild has them."""

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


def forward(net: nn.Module, image: torch.Tensor, *others: torch.Tensor) -> None:
    """One evaluation of `net` without gradients."""
    with torch.inference_mode():
        net(image, *others)
    _wait(image)


def train_step(
    net: nn.Module, optimizer: torch.optim.Optimizer, image: torch.Tensor, queries: torch.Tensor, target: torch.Tensor
) -> None:
    """Gaussian likelihood, gradients clipped to norm 1, one update: the work of our step of `configs/continuous.py`."""
    optimizer.zero_grad()
    out = net(image, queries)
    log_sigma = out[..., 2].clamp(-7, 3)
    squared = (out[..., :2] - target).square().sum(-1)
    (squared / (2 * torch.exp(2 * log_sigma)) + 2 * log_sigma).mean().backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    _wait(image)


def continuous(image: np.ndarray, queries: np.ndarray, target: np.ndarray | None, depths, dims) -> dict[str, Callable]:
    """What is run against ours, in both memory formats: forward passes, or training steps where `target` is given.

    image (B,H,W,3), queries (B,N,3), target (B,N,2). On a GPU if torch sees one.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    others = [torch.from_numpy(array).to(device) for array in (queries, target) if array is not None]
    runs = {}
    for name, memory_format in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
        net = Continuous(depths, dims).to(device, memory_format=memory_format)
        pixels = torch.from_numpy(image).permute(0, 3, 1, 2).to(device).contiguous(memory_format=memory_format)
        if target is None:
            runs[name] = functools.partial(forward, net.eval(), pixels, *others)
        else:
            optimizer = torch.optim.AdamW(net.parameters(), 5e-4, betas=(0.9, 0.95), weight_decay=0.05)
            runs[name] = functools.partial(train_step, net.train(), optimizer, pixels, *others)
    return runs


def _wait(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()
