"""JVCR in stock eager PyTorch, the baseline of `launch.bench`: hourglasses and 3D convolutions with the names of the
original's state dicts. Needs torch."""

import functools

import ml_collections
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from .benchmark import Run
from .torch_runs import DEVICE, both_formats, forwards, wait

LEARNING_RATE, VOXEL_WEIGHT = 2.5e-4, 0.1


class _Bottleneck(nn.Module):
    """Pre-activation residual block: three times batch norm, ReLU, convolution."""

    def __init__(self, inputs: int, planes: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, planes, 1)
        self.bn2, self.conv2 = nn.BatchNorm2d(planes), nn.Conv2d(planes, planes, 3, padding=1)
        self.bn3, self.conv3 = nn.BatchNorm2d(planes), nn.Conv2d(planes, 2 * planes, 1)
        if inputs != 2 * planes:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, 2 * planes, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(functional.relu(self.bn1(x)))
        y = self.conv2(functional.relu(self.bn2(y)))
        y = self.conv3(functional.relu(self.bn3(y)))
        return y + (self.downsample(x) if hasattr(self, "downsample") else x)


class _Hourglass(nn.Module):
    """A recursive hourglass; index 0 of the list is the innermost level."""

    def __init__(self, levels: int, planes: int):
        super().__init__()
        self.hg = nn.ModuleList(
            nn.ModuleList(nn.Sequential(_Bottleneck(2 * planes, planes)) for _ in range(3 if level else 4))
            for level in range(levels)
        )

    def forward(self, x: torch.Tensor, level: int | None = None) -> torch.Tensor:
        level = len(self.hg) - 1 if level is None else level
        branches = self.hg[level]
        low = branches[1](functional.max_pool2d(x, 2))
        low = self(low, level - 1) if level else branches[3](low)
        return branches[0](x) + functional.interpolate(branches[2](low), scale_factor=2)


class Pix2Vox(nn.Module):
    """Image (B,3,S,S) to the volumes (B,D,S/4,S/4) of all stacks."""

    def __init__(self, depths: tuple[int, ...], width: int, levels: int):
        super().__init__()
        half, last = width // 2, len(depths) - 1
        self.conv1, self.bn1 = nn.Conv2d(3, width // 4, 7, 2, 3), nn.BatchNorm2d(width // 4)
        self.layer1 = nn.Sequential(_Bottleneck(width // 4, width // 4))
        self.layer2, self.layer3 = (nn.Sequential(_Bottleneck(inputs, half)) for inputs in (half, width))
        self.hg = nn.ModuleList(_Hourglass(levels, half) for _ in depths)
        self.res = nn.ModuleList(nn.Sequential(_Bottleneck(width, half)) for _ in depths)
        self.fc = nn.ModuleList(nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width)) for _ in depths)
        self.score = nn.ModuleList(nn.Conv2d(width, depth, 1) for depth in depths)
        self.fc_ = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in depths[:last])
        self.score_ = nn.ModuleList(nn.Conv2d(depth, width, 1) for depth in depths[:last])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = functional.max_pool2d(self.layer1(functional.relu(self.bn1(self.conv1(x)))), 2)
        x, volumes = self.layer3(self.layer2(x)), []
        for index, hourglass in enumerate(self.hg):
            y = functional.relu(self.fc[index](self.res[index](hourglass(x))))
            volumes.append(self.score[index](y))
            if index < len(self.fc_):
                x = x + self.fc_[index](y) + self.score_[index](volumes[-1])
        return volumes


class Vox2Coord(nn.Module):
    """Volume (B,1,D,H,W) to coordinates (B,points,3)."""

    def __init__(self, channels: tuple[int, ...], embedding: int, points: int):
        super().__init__()
        inputs = (1, *channels)
        self.encoder = nn.ModuleList(
            nn.Sequential(nn.Conv3d(inputs[k], width, 4, 2, 1), nn.BatchNorm3d(width), nn.LeakyReLU(0.2))
            for k, width in enumerate(channels)
        )
        self.encoder.append(nn.Sequential(nn.Conv3d(channels[-1], embedding, 4)))
        self.fc_cord = nn.Linear(embedding, 3 * points)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.encoder:
            x = layer(x)
        return self.fc_cord(x.flatten(1)).view(len(x), -1, 3)


class JVCR(nn.Module):
    """Image (B,3,S,S) to the volumes of all stacks and the coordinates that the last volume gives."""

    def __init__(self, config: ml_collections.ConfigDict):
        super().__init__()
        self.pix2vox = Pix2Vox(tuple(config.depths), config.width, config.levels)
        self.vox2coord = Vox2Coord(tuple(config.channels), config.embedding, config.points)

    def forward(self, image: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        volumes = self.pix2vox(image)
        return volumes, self.vox2coord(volumes[-1][:, None])


def train_step(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    image: torch.Tensor,
    target: torch.Tensor,
    volumes: list[torch.Tensor],
) -> None:
    """One update of the joint phase."""
    optimizer.zero_grad()
    found, coordinates = net(image)
    voxel = sum(functional.mse_loss(one, true) for one, true in zip(found, volumes, strict=True))
    (functional.mse_loss(coordinates, target) + VOXEL_WEIGHT * voxel).backward()
    optimizer.step()
    wait()


def jvcr(
    config: ml_collections.ConfigDict, images: np.ndarray, target: np.ndarray | None, volumes: list[np.ndarray] | None
) -> dict[str, Run]:
    """Runs by memory format: forward passes, or training steps where `target` is given.

    images (B,S,S,3), target (B,N,3), volumes (B,y,x,D).
    """
    make = functools.partial(JVCR, config)
    if target is None:
        return forwards(make, images)
    true_volumes = [torch.from_numpy(volume).permute(0, 3, 1, 2).to(DEVICE).contiguous() for volume in volumes]
    coordinates = torch.from_numpy(target).to(DEVICE)

    def bind(net: nn.Module, pixels: torch.Tensor) -> Run:
        optimizer = torch.optim.RMSprop(net.parameters(), LEARNING_RATE)
        return functools.partial(train_step, net.train(), optimizer, pixels, coordinates, true_volumes)

    return both_formats(make, images, bind)
