"""The networks of `launch.bench` as stock eager PyTorch has them: what our times are compared with. Needs torch."""

from collections.abc import Sequence

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
