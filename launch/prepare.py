"""Builds a TFDS data set: python -m launch.prepare --dataset rendered_heads/procedural --data_dir data

A folder of photographs becomes one by: --dataset face_folder --manual_dir FOLDER
"""

import textwrap
from typing import Any

import numpy as np
from absl import flags

from jaxface.photo import Photo

from . import app

# Points whose median sigma exceeds this part of the face box are no face's.
UNSURE = 0.1
NAMED = 20

DATASET = flags.DEFINE_string("dataset", None, "name or name/variant", required=True)
DATA_DIR = flags.DEFINE_string("data_dir", "data", "where the data set is written")
MANUAL_DIR = flags.DEFINE_string("manual_dir", "", "where the files that you have obtained lie")
EXAMPLES = flags.DEFINE_integer(
    "examples", None, "generated sets: how many to train on (head_sdf: people); to test on, a twentieth more"
)
SIZE = flags.DEFINE_integer("size", None, "rendered sets: side of the pictures in pixels; head_sdf: points of a record")
BEAM_OPTIONS = flags.DEFINE_multi_string(
    "beam_options", None, "nphm: draw points in an Apache Beam pipeline with this option, e.g. --runner=DirectRunner"
)


def main(_: list[str]) -> None:
    """Builds the data set of the flags, and says what it holds and what was left out."""
    from jaxface.data.prepare import prepare
    from jaxface.systems.deep3d.preprocessing.alignment import aligned_face

    options = {flag.name: flag.value for flag in (EXAMPLES, SIZE, BEAM_OPTIONS) if flag.value is not None}
    tools = {"detect": detect, "align": aligned_face}
    info = prepare(DATASET.value, DATA_DIR.value, MANUAL_DIR.value, tools, **options)
    print(info)
    for line in remarks(info.metadata or {}, info.data_dir):
        print(line)


def remarks(metadata: dict[str, Any], folder: str) -> list[str]:
    """What the user should know of a data set beyond its summary: what was left out, how its landmarks mirror."""
    lines = [landmark_summary(metadata)] if "flip" in metadata else []
    failed = metadata.get("failed", {})
    lines += [f"left out: {name} ({reason})" for name, reason in list(failed.items())[:NAMED]]
    if len(failed) > NAMED:
        lines.append(f"left out: {len(failed) - NAMED} more; all of them are named in {folder}/metadata.json")
    return lines


def landmark_summary(metadata: dict[str, list]) -> str:
    """For the user of own data to confirm: the flip map, how symmetric the mean face is, who is whose neighbour."""
    from jaxface.data import symmetry

    meanface, flip = np.reshape(metadata["meanface"], (-1, 2)), metadata["flip"]
    apart = symmetry.distances(meanface, flip)
    pairs = [f"{a}-{b}" if a != b else f"{a}" for a, b in enumerate(flip) if a <= b]
    squared = ((meanface[:, None] - meanface) ** 2).sum(-1)
    nearest = [" ".join(map(str, row[1:6])) for row in np.argsort(squared, axis=1, kind="stable")]
    lines = [
        f"mirroring exchanges (write flip.txt into the folder if this is wrong): {', '.join(pairs)}",
        f"farthest from symmetric: landmark {apart.argmax()}, {apart.max():.1%} of the face's width",
        f"nearest neighbours: {', '.join(f'{i}: {row}' for i, row in enumerate(nearest))}",
    ]
    return "\n".join(textwrap.fill(line, 120) for line in lines)


def detect(photo: Photo, box: np.ndarray | None = None) -> np.ndarray | None:
    """The 68 points (68,2) px of the largest face by the shipped detector, or of that in `box`; None if unsure."""
    from jaxface.inference import detector

    face = next(iter(detector()(photo, boxes=box)), None)
    if face is None:
        return None
    side = np.subtract(face.box[2:], face.box[:2]).mean()
    return face.points if np.median(face.sigma) < UNSURE * side else None


if __name__ == "__main__":
    app.run(main)
