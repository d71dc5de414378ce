"""What a run reports: `metrics.jsonl` always, and TensorBoard events beside it. Only the first host writes."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from tensorboardX import SummaryWriter

from jaxface.checkpoint import Path, disk_errors


class Metrics:
    """Writes scalars and pictures of one workdir, beginning after `start` steps; a context manager.

    Lines of `metrics.jsonl` beyond `start`, left by a run that was killed after its last checkpoint, are dropped: the
    run is about to write them again. Raises UserError where the disk is full or read-only.
    """

    def __init__(self, workdir: Path, start: int):
        self._path = pathlib.Path(workdir) / "metrics.jsonl"
        self._events: SummaryWriter | None = None
        if jax.process_index() == 0:
            with disk_errors(workdir):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                _drop_after(self._path, start)
                self._events = SummaryWriter(str(workdir), purge_step=start + 1, write_to_disk=True)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds one line and one event per scalar."""
        if self._events is None:
            return
        with disk_errors(self._path):
            with self._path.open("a") as file:
                file.write(json.dumps({"step": step, **{name: float(value) for name, value in scalars.items()}}) + "\n")
            for name, value in scalars.items():
                self._events.add_scalar(name, float(value), step)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Adds pictures (H,W,3) RGB, uint8 or float in [0,1], to the events."""
        if self._events is None:
            return
        with disk_errors(self._path):
            for name, image in images.items():
                self._events.add_image(name, image, step, dataformats="HWC")

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._events is not None:
            with disk_errors(self._path):
                self._events.close()


def read(workdir: Path) -> list[dict[str, float]]:
    """The lines of `metrics.jsonl` in order; a last line cut short by a kill is left out."""
    path = pathlib.Path(workdir) / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def _drop_after(path: pathlib.Path, start: int) -> None:
    """Rewrites the file without lines of later steps, in one step."""
    kept = [line for line in read(path.parent) if line["step"] <= start]
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
    partial.replace(path)
