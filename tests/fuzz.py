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

import ml_collections
import numpy as np
import safetensors.numpy
from PIL import Image

from jaxface import array_files, config_file, folders, json_files, meshes, photo, pretrained, system, torch_files
from jaxface.data import annotations
from jaxface.errors import UserError
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
