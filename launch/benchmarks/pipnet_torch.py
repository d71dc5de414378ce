"""PIPNet on ResNet-18 in stock eager PyTorch, the baseline of `launch.bench`: torchvision's layers, the original's
heads, loss and merging of votes, for a whole batch at once. Needs torch."""

import functools

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from .benchmark import Run
from .torch_runs import DEVICE, both_formats, forwards, wait

GRID = 8


class _Block(nn.Module):
    """torchvision's BasicBlock."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        if stride != 1 or inputs != width:
            shortcut = nn.Conv2d(inputs, width, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return functional.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x), inplace=True)


class PIPNet(nn.Module):
    """Image (B,3,H,W) to the five maps (B,C,H/32,W/32); state dicts are those of the official snapshots.

    In evaluation mode it returns the decoded and merged landmarks (B,L,2); `index` (L,M) names each landmark's voters.
    """

    def __init__(self, landmarks: int, neighbors: int, index: torch.Tensor):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        widths = (64, 64, 128, 256, 512)
        for number in range(1, 5):
            inputs, width = widths[number - 1 : number + 1]
            blocks = _Block(inputs, width, 1 if number == 1 else 2), _Block(width, width, 1)
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        counts = {"cls": 1, "x": 1, "y": 1, "nb_x": neighbors, "nb_y": neighbors}
        for name, count in counts.items():
            setattr(self, f"{name}_layer", nn.Conv2d(512, landmarks * count, 1))
        self.names, self.index = tuple(counts), index

    def forward(self, image: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        x = functional.relu(self.bn1(self.conv1(image)), inplace=True)
        x = functional.max_pool2d(x, 3, 2, 1)
        for number in range(1, 5):
            x = getattr(self, f"layer{number}")(x)
        maps = {name: getattr(self, f"{name}_layer")(x) for name in self.names}
        return maps if self.training else decode(maps, self.index)


def decode(maps: dict[str, torch.Tensor], index: torch.Tensor) -> torch.Tensor:
    """Merged landmarks (B,L,2) of maps (B,C,g,g) and voters (L,M)."""
    batch, landmarks, grid, _ = maps["cls"].shape
    cell = maps["cls"].flatten(2).argmax(-1)
    corner = torch.stack([cell % grid, cell // grid], -1)
    own = (corner + torch.stack([at(maps[name], cell)[..., 0] for name in ("x", "y")], -1)) / grid
    votes = (corner[:, :, None] + torch.stack([at(maps[name], cell) for name in ("nb_x", "nb_y")], -1)) / grid
    voted = votes.reshape(batch, -1, 2)[:, index]
    return torch.cat([own[:, :, None], voted], 2).mean(2)


def at(values: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
    """Values (B,L,n) of a map (B,L*n,g,g) at each landmark's cell (B,L)."""
    batch, landmarks = cell.shape
    flat = values.reshape(batch, landmarks, -1, values.shape[-1] ** 2)
    return flat.gather(3, cell[:, :, None, None].expand(-1, -1, flat.shape[2], 1))[..., 0]


def train_step(
    net: PIPNet, optimizer: torch.optim.Optimizer, image: torch.Tensor, points: torch.Tensor, table: torch.Tensor
) -> None:
    """One update of Adam on the original's loss, including its targets, for points (B,L,2) in crop units."""
    optimizer.zero_grad()
    maps = net(image)
    corner = (points * GRID).floor().clamp(0, GRID - 1)
    cell = (corner[..., 0] + GRID * corner[..., 1]).long()
    target = functional.one_hot(cell, GRID * GRID).float()
    loss = 10 * (maps["cls"].flatten(2) - target).square().mean()
    own, others = points * GRID - corner, points[:, table] * GRID - corner[:, :, None]
    for axis, (name, neighbors) in enumerate((("x", "nb_x"), ("y", "nb_y"))):
        loss = loss + (at(maps[name], cell)[..., 0] - own[..., axis]).abs().mean()
        loss = loss + (at(maps[neighbors], cell) - others[..., axis]).abs().mean()
    loss.backward()
    optimizer.step()
    wait()


def pipnet(image: np.ndarray, table: np.ndarray, index: np.ndarray, points: np.ndarray | None) -> dict[str, Run]:
    """Runs by memory format: forward passes, or training steps where `points` is given.

    image (B,H,W,3), table (L,N) neighbours, index (L,M) voters, points (B,L,2).
    """
    neighbors = torch.from_numpy(table).to(DEVICE)
    make = functools.partial(PIPNet, *table.shape, torch.from_numpy(index).long().to(DEVICE))
    if points is None:
        return forwards(make, image)
    truth = torch.from_numpy(points).to(DEVICE)

    def bind(net: nn.Module, pixels: torch.Tensor) -> Run:
        optimizer = torch.optim.Adam(net.parameters(), 1e-4)
        return functools.partial(train_step, net.train(), optimizer, pixels, truth, neighbors)

    return both_formats(make, image, bind)
