"""Landmarks and reconstructions of faces in photos and videos: python -m launch.infer --input photo.jpg --output out

Without --workdir the pretrained model of --system is used. With --multiview all photos of the folder show one person.
The network alone on prepared arrays: python -m launch.infer --workdir W --raw in.npz --output out.npz
"""

import sys

from absl import flags

from jaxface import folders
from jaxface.errors import UserError

from . import app, model

INPUT = flags.DEFINE_string("input", None, "photo, video, or a folder of these")
OUTPUT = flags.DEFINE_string("output", None, "folder of the results (with --raw: the .npz file)")
BOXES = flags.DEFINE_string("boxes", None, 'JSON file {"file name": [x0, y0, x1, y1]}: hairline to chin, side to side')
LAYOUT = flags.DEFINE_string("layout", None, "68, 98, dense or the name of a region (default: 68)")
MIN_SCORE = flags.DEFINE_float("min_score", None, "leave out faces with a lower score of the detector", 0.0, 1.0)
MAX_FACES = flags.DEFINE_integer("max_faces", None, "at most so many faces of a photo, the largest", 1)
SMOOTH = flags.DEFINE_bool("smooth", False, "smooth the points of videos over time (One-Euro filter)")
MULTIVIEW = flags.DEFINE_bool("multiview", False, "all photos of the folder show one person (deep3d)")
SET = flags.DEFINE_bool("set", False, "deprecated, use --multiview")
RAW = flags.DEFINE_string("raw", None, ".npz file of prepared arrays, instead of --input")


def main(argv: list[str]) -> int:
    """Runs the model on the files that the flags name; returns 1 if a file failed."""
    del argv
    if (INPUT.value is None) == (RAW.value is None):
        raise UserError("give --input FILE or FOLDER, or --raw FILE.npz")
    output = app.required(OUTPUT)
    if SET.value:
        log("warning: --set is deprecated; use --multiview")
    predictor = model.predictor()
    if RAW.value is not None:
        folders.infer_arrays(predictor.raw, RAW.value, output)
        return 0
    given = {"layout": LAYOUT.value, "min_score": MIN_SCORE.value, "max_faces": MAX_FACES.value}
    options = {name: value for name, value in given.items() if value is not None}
    log(f"{predictor}; the first photo takes longer, while the network is compiled")
    if MULTIVIEW.value or SET.value:
        summary = folders.infer_multiview(predictor.person, INPUT.value, output, BOXES.value, options, log)
    else:
        clip = predictor.reconstruct_clip
        summary = folders.infer_files(predictor, INPUT.value, output, BOXES.value, SMOOTH.value, options, log, clip)
    print(summary)
    return 1 if summary.failed else 0


def log(line: str) -> None:
    """Prints a line on stderr."""
    print(line, file=sys.stderr)


if __name__ == "__main__":
    app.run(main)
