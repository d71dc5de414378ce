"""How stock eager PyTorch runs in `launch.bench`: on a GPU if it sees one, in both memory formats. Needs torch."""

import functools
import os
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from launch.benchmarks.work import Run

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
torch.set_num_threads(len(os.sched_getaffinity(0)))
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def forward(net: nn.Module, image: torch.Tensor, *others: torch.Tensor) -> None:
    """One evaluation of `net` without gradients."""
    with torch.inference_mode():
        net(image, *others)
    wait()


def wait() -> None:
    """Returns when the GPU is done, if there is one."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def forwards(make: Callable[[], nn.Module], image: np.ndarray, *others: torch.Tensor) -> dict[str, Run]:
    """Evaluations of the network that `make` makes on image (B,H,W,3), by memory format."""
    return both_formats(make, image, lambda net, pixels: functools.partial(forward, net.eval(), pixels, *others))


def both_formats(
    make: Callable[[], nn.Module], image: np.ndarray, bind: Callable[[nn.Module, torch.Tensor], Run]
) -> dict[str, Run]:
    """`bind(network, pixels (B,3,H,W))` for each memory format, of image (B,H,W,3)."""
    runs = {}
    for name, memory_format in FORMATS.items():
        net = make().to(DEVICE)
        for weight in net.parameters():
            if weight.dim() == 4:  # Module.to refuses a network that has weights of 3D convolutions as well
                weight.data = weight.data.contiguous(memory_format=memory_format)
        pixels = torch.from_numpy(image).permute(0, 3, 1, 2).to(DEVICE).contiguous(memory_format=memory_format)
        runs[name] = bind(net, pixels)
    return runs
