"""Runs the PyTorch baselines of `launch.bench`: on a GPU if available, in both memory formats. Needs torch."""

import functools
import os
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from .benchmark import Run

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
torch.set_num_threads(len(os.sched_getaffinity(0)))
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def forward(net: nn.Module, image: torch.Tensor, *others: torch.Tensor) -> None:
    """One forward pass of `net` in inference mode."""
    with torch.inference_mode():
        net(image, *others)
    wait()


def wait() -> None:
    """Waits for the GPU, if there is one."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def forwards(make: Callable[[], nn.Module], image: np.ndarray, *others: torch.Tensor) -> dict[str, Run]:
    """Forward passes of the network `make()` on image (B,H,W,3), by memory format."""
    return both_formats(make, image, lambda net, pixels: functools.partial(forward, net.eval(), pixels, *others))


def both_formats(
    make: Callable[[], nn.Module], image: np.ndarray, bind: Callable[[nn.Module, torch.Tensor], Run]
) -> dict[str, Run]:
    """`bind(network, pixels (B,3,H,W))` of image (B,H,W,3), by memory format."""
    runs = {}
    for name, memory_format in FORMATS.items():
        net = make().to(DEVICE)
        for weight in net.parameters():
            if weight.dim() == 4:  # Module.to(memory_format=…) refuses a network with 3D convolutions
                weight.data = weight.data.contiguous(memory_format=memory_format)
        pixels = torch.from_numpy(image).permute(0, 3, 1, 2).to(DEVICE).contiguous(memory_format=memory_format)
        runs[name] = bind(net, pixels)
    return runs
