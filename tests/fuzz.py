"""Mutates small valid files of every kind and reads them: only UserError, no crash, no hang, bounded memory.

`python tests/fuzz.py --cases 2000 --seed 1` is the long version; `tests/test_fuzz.py` runs a short one.
"""

import argparse
import collections
import importlib
import io
import json
import os
import pathlib
import pickle
import random
import resource
import signal
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import cv2
import h5py
import ml_collections
import numpy as np
import safetensors.numpy
import scipy.io
from PIL import Image

from jaxface import array_files, config_file, folders, json_files, meshes, photo, pretrained, system, torch_files, video
from jaxface.data import annotations, label_files
from jaxface.errors import UserError
from jaxface.heads import flame
from jaxface.mesh_files.mesh import Mesh

MAX_SECONDS, MAX_BYTES = 20, 2 * 2**30
CONFIGS = ("continuous", "pipnet", "jvcr", "deep3d", "nphm_identity", "nphm_expression")
NONSENSE = (-1, 0, 1e30, float("nan"), "x", "", None, (), ("a",), (1, 2, 3), {"a": 1}, 10**15, True, [[1], 2], "\0")
NONSENSE += ("n" * 5000,)
Mutate = Callable[[bytes, random.Random], bytes]


class Evil:
    """A pickle that would create a file."""

    def __init__(self, marker: str):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def truncated(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def flipped(data: bytes, rng: random.Random) -> bytes:
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 10))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def lengthened(data: bytes, rng: random.Random) -> bytes:
    """A length field with an extreme value, at any place."""
    content = bytearray(data)
    at = rng.randrange(max(len(content) - 4, 1))
    content[at : at + 4] = rng.choice((b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x80"))
    return bytes(content)


def nested(data: bytes, rng: random.Random) -> bytes:
    depth = rng.choice((50, 20_000))
    return b"[" * depth + data[:100] + b"]" * depth


def swapped(data: bytes, rng: random.Random) -> bytes:
    """Text with a number replaced by another type; binary with a piece moved elsewhere."""
    words = data.split(b" ")
    if len(words) > 2:
        words[rng.randrange(len(words))] = rng.choice((b"x", b"nan", b"1e400", b"-1", b"[]", b"null", b"9" * 5000))
        return b" ".join(words)
    first, second = sorted(rng.randrange(len(data)) for _ in range(2))
    return data[second:] + data[:first]


MUTATIONS: tuple[Mutate, ...] = (truncated, flipped, flipped, lengthened, nested, swapped)


def _image(kind: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _npz() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, image=np.zeros((1, 4, 4, 3), np.float32), points=np.arange(6.0))
    return buffer.getvalue()


def _torch(marker: str) -> bytes:
    """A zip like PyTorch's, whose pickle creates a folder if it is executed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weight": Evil(marker)}, 2))
        archive.writestr("archive/data/0", bytes(16))
    return buffer.getvalue()


def _label_files() -> list[tuple[str, bytes]]:
    """The same two faces as COCO keypoints, labelme's JSON, dlib's XML, a CSV table and a list."""
    points = [[10.5, 20], [30, 22.25], [20, 35]]
    coco = {
        "images": [{"id": number, "file_name": f"{number}.jpg", "width": 60, "height": 50} for number in (1, 2)],
        "annotations": [
            {"image_id": number, "keypoints": [value for x, y in points for value in (x, y, 2)]} for number in (1, 2)
        ],
    }
    shapes = [{"label": str(number), "shape_type": "point", "points": [point]} for number, point in enumerate(points)]
    labelme = {"shapes": shapes, "imagePath": "1.jpg", "imageWidth": 60, "imageHeight": 50}
    parts = "".join(f'<part name="{number}" x="{x}" y="{y}"/>' for number, (x, y) in enumerate(points))
    box = f'<box top="1" left="2" width="40" height="40">{parts}</box>'
    dlib = f'<dataset><images><image file="1.jpg">{box}</image></images></dataset>'
    numbers = [f"{value}" for point in points for value in point]
    table = "image,x0,y0,x1,y1,x2,y2\n" + f"1.jpg,{','.join(numbers)}\n2.jpg,{','.join(numbers)}\n"
    listed = f"1.jpg {' '.join(numbers)}\n2.jpg {' '.join(numbers)}\n"
    texts = (("json", json.dumps(coco, indent=1)), ("json", json.dumps(labelme, indent=1)))
    texts += (("xml", dlib), ("csv", table), ("txt", listed))
    return [(ending, text.encode()) for ending, text in texts]


def _mat_files() -> list[tuple[str, bytes]]:
    """MATLAB's versions 4, 5 with and without compression, and 7.3."""
    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = np.arange(3.0), "name.jpg"
    variables = {"x": np.arange(12.0).reshape(3, 4), "text": "abc"}
    contents = []
    for options in ({"format": "4"}, {}, {"do_compression": True}):
        buffer = io.BytesIO()
        more = {} if options.get("format") == "4" else {"cells": cells, "flags": np.array([[True, False]])}
        scipy.io.savemat(buffer, {**variables, **more}, **options)
        contents.append(("mat", buffer.getvalue()))
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["x"] = variables["x"]
        file.create_dataset("packed", data=np.zeros((40, 30)), compression="gzip", chunks=(10, 10))
    return [*contents, ("mat", buffer.getvalue())]


def _flame_files() -> list[tuple[str, bytes]]:
    """A head of four vertices as a pickle of two protocols and as arrays: FLAME's fields, not its size."""
    arrays = {
        "v_template": np.zeros((4, 3)),
        "shapedirs": np.zeros((4, 3, 5), np.float32),
        "f": np.array([[0, 1, 2], [0, 2, 3]], np.uint32),
        "weights": np.ones((4, 5)),
    }
    fields = {**arrays, "kintree_table": {1, 2}, "bs_type": "lrotmin", "nested": [("a", {"b": b"c"})]}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return [("pkl", pickle.dumps(fields, 2)), ("pkl", pickle.dumps(fields, 5)), ("npz", buffer.getvalue())]


def _videos(folder: pathlib.Path) -> list[tuple[str, bytes]]:
    """Clips of eight frames with two codecs."""
    contents, rng = [], np.random.default_rng(0)
    for ending, codec in (("avi", "MJPG"), ("mp4", "mp4v")):
        path = folder / f"clip.{ending}"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 12, (48, 32))
        for _ in range(8):
            writer.write(rng.integers(0, 255, (32, 48, 3), np.uint8))
        writer.release()
        contents.append((ending, path.read_bytes()))
    return contents


def _play(path: pathlib.Path) -> None:
    for _ in video.open_clip(path).timed_frames():
        pass


def _read_matlab(path: pathlib.Path) -> None:
    annotations.read_mat(path, "x")
    annotations.read_mat(path)


def seeds(folder: pathlib.Path) -> dict[str, tuple[list[tuple[str, bytes]], Callable]]:
    """For each kind of file: valid examples (ending, content) and the function that reads such a path."""
    corners = np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0], [0, 0, 9]], np.float64)
    tetrahedron = Mesh(corners, np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]]))
    config = importlib.import_module("configs.pipnet").get_config("smoke")
    marker = str(folder / "executed")
    half = safetensors.numpy.save({"a/kernel": np.ones((3, 4), np.float16), "model_state/mean": np.ones(4, np.float32)})
    points = "\n".join(f"{number}.5 {number * 2}" for number in range(5))
    pts = f"version: 1\nn_points: 5\n{{\n{points}\n}}\n"

    def asset(path: pathlib.Path) -> None:
        (path.parent / "config.json").write_text(json.dumps({"system": "pipnet"}))
        path.replace(path.parent / pretrained.PARAMS_FILE)
        pretrained.load_asset(path.parent)

    def workdir(path: pathlib.Path) -> None:
        path.replace(path.parent / config_file.NAME)
        loaded = config_file.load(path.parent)
        system.resolve(loaded, str(path.parent))

    return {
        "picture": ([(kind, _image(kind)) for kind in ("png", "jpeg", "bmp", "gif", "tiff", "webp")], photo.load),
        "mesh": ([(end, meshes.encode(tetrahedron, f".{end}")) for end in ("ply", "obj", "glb")], meshes.read),
        "annotation": ([("pts", pts.encode())], annotations.read_pts),
        "npz": ([("npz", _npz())], array_files.read_npz),
        "checkpoint": ([("pth", _torch(marker)), ("pkl", pickle.dumps(Evil(marker)))], torch_files.read),
        "boxes": ([("json", b'{"a.png": [1, 2, 30, 40]}')], lambda path: folders.read_boxes(path, path.parent)),
        "json": ([("json", b'{"meanface": [0.1, 0.2], "flip": [0]}')], lambda path: json_files.read(path, "")),
        "model": ([("safetensors", half)], asset),
        "workdir": ([("json", json.dumps(json.loads(config.to_json()), indent=1).encode())], workdir),
        "labels": (_label_files(), label_files.read),
        "matlab": (_mat_files(), _read_matlab),
        "flame": (_flame_files(), flame.load_flame),
        "video": (_videos(folder), _play),
    }


def check_config(name: str, rng: random.Random) -> None:
    """Resolves and builds a system with one or two values of its configuration replaced by nonsense."""
    values = importlib.import_module(f"configs.{name}").get_config("smoke").to_dict()
    values["data"]["build_examples"] = 0
    for _ in range(rng.choice((1, 1, 2))):
        place, key = values, rng.choice(list(values))
        while isinstance(place[key], dict) and place[key] and rng.random() < 0.9:
            place = place[key]
            key = rng.choice(list(place))
        place[key] = rng.choice(NONSENSE)
    config = ml_collections.ConfigDict(values, type_safe=False)
    system.build(system.resolve(config, "the configuration"), "the configuration")


def _alarm(*_: object) -> None:
    raise TimeoutError(f"longer than {MAX_SECONDS} s")


def run(cases: int, seed: int, max_seconds: float = float("inf")) -> tuple[collections.Counter, list[str]]:
    """(number of cases by kind, failures with their stack traces) of at most `cases`, in equal shares of the kinds."""
    counts, failures, end = collections.Counter(), [], time.monotonic() + max_seconds
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.signal(signal.SIGALRM, _alarm)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        kinds = seeds(folder)
        names = [*kinds, "config"]
        for number in range(cases):
            if time.monotonic() > end:
                break
            rng, kind = random.Random(f"{seed} {number}"), names[number % len(names)]
            path = folder / f"{number}" / "a"
            path.parent.mkdir()
            label = f"{kind} {number} (seed {seed})"
            signal.alarm(MAX_SECONDS)
            try:
                if kind == "config":
                    label += " " + (chosen := rng.choice(CONFIGS))
                    check_config(chosen, rng)
                else:
                    ending, content = rng.choice(kinds[kind][0])
                    mutation = rng.choice(MUTATIONS)
                    label += f" {ending} {mutation.__name__}"
                    path = path.with_suffix(f".{ending}")
                    path.write_bytes(mutation(content, rng))
                    kinds[kind][1](path)
            except UserError as error:
                if "\n" in str(error):
                    failures.append(f"{label}: more than one line: {error}")
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                failures.append(f"{label}: {type(error).__name__}: {error}\n{traceback.format_exc(limit=-4)}")
            finally:
                signal.alarm(0)
            counts[kind] += 1
        if (folder / "executed").exists():
            failures.append("a file was executed")
    used = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    if used > MAX_BYTES:
        failures.append(f"{used / 2**30:.1f} GiB were used")
    return counts, failures


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    counts, failures = run(arguments.cases, arguments.seed)
    print("\n".join(failures))
    print(dict(counts), f"{len(failures)} failures")
