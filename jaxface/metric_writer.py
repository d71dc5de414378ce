"""Metrics of a run: `metrics.jsonl` and TensorBoard events. Only the first host writes."""

import json
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from PIL import Image
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from jaxface.checkpoint import Path
from jaxface.errors import disk_errors


class MetricWriter:
    """Writes scalars and images of one workdir, from step `start` on; a context manager.

    A run that was killed may have written lines after its last checkpoint. Lines of later steps than `start` are
    dropped, because the resumed run writes them again. Raises UserError if the disk is full or read-only.
    """

    def __init__(self, workdir: Path, start: int):
        self._path = pathlib.Path(workdir) / "metrics.jsonl"
        # SummaryWriter writes from its own thread, where a full disk prints a stack trace and raises nothing here.
        self._events: EventsWriter | None = None
        if jax.process_index() == 0:
            with disk_errors(workdir):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                _drop_after(self._path, start)
                self._events = EventsWriter(str(self._path.with_name("events")))
                restart = SessionLog(status=SessionLog.START)
                self._events.write_event(Event(step=start + 1, wall_time=time.time(), session_log=restart))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds one line and one event per scalar."""
        if self._events is None:
            return
        with disk_errors(self._path):
            with self._path.open("a") as file:
                file.write(json.dumps({"step": step, **{name: float(value) for name, value in scalars.items()}}) + "\n")
            self._add(step, [summary.scalar(name, float(value)) for name, value in scalars.items()])

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Adds RGB images (H,W,3), uint8 or float in [0,1], to the events and to the folder `pictures`."""
        if self._events is None or not images:
            return
        folder = self._path.with_name("pictures")
        with disk_errors(self._path):
            folder.mkdir(exist_ok=True)
            for name, image in images.items():
                pixels = image if image.dtype == np.uint8 else (255 * image.clip(0, 1) + 0.5).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{step:08d}_{name.replace('/', '_')}.png")
            self._add(step, [summary.image(name, image, dataformats="HWC") for name, image in images.items()])

    def _add(self, step: int, parts: list[Summary]) -> None:
        merged = Summary(value=[value for part in parts for value in part.value])
        self._events.write_event(Event(step=step, wall_time=time.time(), summary=merged))
        self._events.flush()

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._events is not None:
            with disk_errors(self._path):
                self._events.close()


def read(workdir: Path) -> list[dict[str, float]]:
    """The lines of `metrics.jsonl` in order; lines that a kill truncated or that are damaged are left out."""
    path = pathlib.Path(workdir) / "metrics.jsonl"
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    return [values for values in map(_parsed, lines) if "step" in values]


def _parsed(line: str) -> dict[str, float]:
    """The values of one line; {} if it is damaged."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _drop_after(path: pathlib.Path, start: int) -> None:
    """Rewrites the file atomically without the lines of steps after `start`."""
    kept = [line for line in read(path.parent) if line["step"] <= start]
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
    partial.replace(path)
