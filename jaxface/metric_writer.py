"""Metrics of a run: `metrics.jsonl` and TensorBoard events. Only the first host writes."""

import io
import json
import pathlib
import tempfile
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

from jaxface import storage
from jaxface.checkpoint import Path
from jaxface.errors import disk_errors, is_remote

FILE = "metrics.jsonl"


class MetricWriter:
    """Writes scalars and images of one workdir, from step `start` on; a context manager.

    A run that was killed may have written lines after its last checkpoint. Lines of later steps than `start` are
    dropped, because the resumed run writes them again. In a bucket, where nothing is appended to a file, metrics and
    events appear at `flush`. Raises UserError if the disk is full or read-only.
    """

    def __init__(self, workdir: Path, start: int):
        self._workdir = storage.path(workdir)
        self._staging = tempfile.TemporaryDirectory(prefix="jaxface-") if is_remote(self._workdir) else None
        folder = pathlib.Path(self._staging.name) if self._staging else self._workdir
        self._path = folder / FILE
        # SummaryWriter writes from its own thread, where a full disk prints a stack trace and raises nothing here.
        self._events: EventsWriter | None = None
        if jax.process_index() == 0:
            with disk_errors(workdir):
                folder.mkdir(parents=True, exist_ok=True)
                kept = [line for line in read(workdir) if line["step"] <= start]
                storage.write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
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
        folder = self._workdir / "pictures"
        with disk_errors(self._workdir):
            folder.mkdir(exist_ok=True)
            for name, image in images.items():
                pixels = image if image.dtype == np.uint8 else (255 * image.clip(0, 1) + 0.5).astype(np.uint8)
                content = io.BytesIO()
                Image.fromarray(pixels).save(content, "PNG")
                (folder / f"{step:08d}_{name.replace('/', '_')}.png").write_bytes(content.getvalue())
            self._add(step, [summary.image(name, image, dataformats="HWC") for name, image in images.items()])

    def flush(self) -> None:
        """Copies metrics and events to a workdir in a bucket; elsewhere they are there already."""
        if self._events is not None and self._staging is not None:
            with disk_errors(self._workdir):
                storage.copy(pathlib.Path(self._staging.name), self._workdir)

    def _add(self, step: int, parts: list[Summary]) -> None:
        merged = Summary(value=[value for part in parts for value in part.value])
        self._events.write_event(Event(step=step, wall_time=time.time(), summary=merged))
        self._events.flush()

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._events is not None:
            with disk_errors(self._workdir):
                self._events.close()
            self.flush()
        if self._staging is not None:
            self._staging.cleanup()


def read(workdir: Path) -> list[dict[str, float]]:
    """The lines of `metrics.jsonl` in order; lines that a kill truncated or that are damaged are left out."""
    path = storage.path(workdir) / FILE
    lines = path.read_bytes().decode(errors="replace").splitlines() if path.is_file() else []
    return [values for values in map(_parsed, lines) if "step" in values]


def _parsed(line: str) -> dict[str, float]:
    """The values of one line; {} if it is damaged."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
