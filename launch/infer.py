"""Points on photographs and videos: python -m launch.infer --input photo.jpg --output out

Without --workdir the model that ships is used. With --set the pictures of a folder are taken to show one person.
Prepared arrays: --workdir W --raw in.npz --output out.npz
"""

import functools
import sys

from absl import flags

from jaxface import folders
from jaxface.errors import UserError

from . import app, model

INPUT = flags.DEFINE_string("input", None, "picture, video, or folder of these")
OUTPUT = flags.DEFINE_string("output", None, "folder of the results (with --raw: the .npz file)")
BOXES = flags.DEFINE_string("boxes", None, 'JSON file {"file name": [x0, y0, x1, y1]}: hairline to chin, side to side')
LAYOUT = flags.DEFINE_string("layout", None, "68, 98, dense or the name of a region (default: 68)")
SMOOTH = flags.DEFINE_bool("smooth", False, "smooth the points of videos over time (One-Euro filter)")
SET = flags.DEFINE_bool("set", False, "all pictures of the folder show one person, who gets one identity (deep3d)")
RAW = flags.DEFINE_string("raw", None, ".npz file of prepared arrays, instead of --input")


def main(argv: list[str]) -> int:
    """Runs the model on what the flags name; 1 where some file failed."""
    del argv
    if (INPUT.value is None) == (RAW.value is None):
        raise UserError("give --input FILE or FOLDER, or --raw FILE.npz")
    if OUTPUT.value is None:
        raise UserError("give --output")
    predictor = model.predictor()
    if RAW.value is not None:
        folders.infer_arrays(predictor.raw, RAW.value, OUTPUT.value)
        return 0
    options = {} if LAYOUT.value is None else {"layout": LAYOUT.value}
    tell = functools.partial(print, file=sys.stderr)
    if SET.value:
        summary = folders.infer_set(predictor.person, INPUT.value, OUTPUT.value, BOXES.value, options, tell)
    else:
        summary = folders.infer_files(predictor, INPUT.value, OUTPUT.value, BOXES.value, SMOOTH.value, options, tell)
    print(summary)
    return 1 if summary.failed else 0


if __name__ == "__main__":
    app.run(main)
