"""Builds a TFDS data set: `python -m launch.prepare --dataset rendered_heads/procedural --data_dir data`."""

import textwrap

import numpy as np
from absl import flags

from launch import app

DATASET = flags.DEFINE_string("dataset", None, "name or name/variant", required=True)
DATA_DIR = flags.DEFINE_string("data_dir", "data", "where the data set is written")
MANUAL_DIR = flags.DEFINE_string("manual_dir", "", "where the files that you have obtained lie")
EXAMPLES = flags.DEFINE_integer(
    "examples", None, "generated sets: how many to train on (head_sdf: people); to test on, a twentieth more"
)
SIZE = flags.DEFINE_integer("size", None, "rendered sets: side of the pictures in pixels; head_sdf: points of a record")


def main(_: list[str]) -> None:
    from jaxface.data.prepare import prepare

    options = {flag.name: flag.value for flag in (EXAMPLES, SIZE) if flag.value is not None}
    info = prepare(DATASET.value, DATA_DIR.value, MANUAL_DIR.value, **options)
    print(info)
    if "flip" in (info.metadata or {}):
        print(landmark_summary(info.metadata))


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


if __name__ == "__main__":
    app.run(main)
