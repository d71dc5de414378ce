"""Landmarks and reconstructions of faces in photos and videos: python -m launch.infer --input photo.jpg --output out

Without --workdir the pretrained model of --system is used. With --multiview all photos of the folder show one person.
With --camera 0 instead of --input the frames of a camera are processed until Ctrl-C.
The network alone on prepared arrays: python -m launch.infer --workdir W --raw in.npz --output out.npz
"""

import sys
from typing import Any

from absl import flags

from jaxface import clips, folders, photo
from jaxface.errors import UserError

from . import app, model

INPUT = flags.DEFINE_string("input", None, "photo, video, or a folder of these")
OUTPUT = flags.DEFINE_string("output", None, "folder of the results (with --raw: the .npz file)")
BOXES = flags.DEFINE_string("boxes", None, 'JSON file {"file name": [x0, y0, x1, y1]}: hairline to chin, side to side')
LAYOUT = flags.DEFINE_string(
    "layout", None, "68, 98, dense, a region or an .npy file of template points (N,3); several by commas (default: 68)"
)
FIT = flags.DEFINE_bool("fit", False, "fit a head to each face: pose, blendshapes and mesh files (continuous)")
MASKS = flags.DEFINE_string("masks", None, "write a label image of these regions, by commas: lips,nose (continuous)")
TEXTURE = flags.DEFINE_bool("texture", False, "write the photo in the UV map of the head (continuous)")
PAINT = flags.DEFINE_string("paint", None, "image of such a map, which is painted onto the face (continuous)")
CAMERA = flags.DEFINE_integer("camera", None, "number of a camera, instead of --input", 0)
MIN_SCORE = flags.DEFINE_float("min_score", None, "leave out faces with a lower score of the detector", 0.0, 1.0)
MAX_FACES = flags.DEFINE_integer("max_faces", None, "at most so many faces of a photo, the largest", 1)
SMOOTH = flags.DEFINE_bool("smooth", False, "smooth the points of videos over time")
MULTIVIEW = flags.DEFINE_bool("multiview", False, "all photos of the folder show one person (deep3d)")
SET = flags.DEFINE_bool("set", False, "deprecated, use --multiview")
RAW = flags.DEFINE_string("raw", None, ".npz file of prepared arrays, instead of --input")


def main(argv: list[str]) -> int:
    """Runs the model on the files that the flags name; returns 1 if a file failed."""
    del argv
    if [value in (None, "") for value in (INPUT.value, RAW.value, CAMERA.value)].count(False) != 1:
        raise UserError(
            "--input: missing, or not alone; give --input FILE or FOLDER, --camera NUMBER, or --raw FILE.npz"
        )
    output = app.required(OUTPUT)
    if SET.value:
        log("warning: --set is deprecated; use --multiview")
    predictor = model.predictor()
    if RAW.value is not None:
        folders.infer_arrays(predictor.raw, RAW.value, output)
        return 0
    options = {name: value for name, value in given_options().items() if value is not None and value is not False}
    log(f"{predictor}; the first photo takes longer, while the network is compiled")
    if MULTIVIEW.value or SET.value:
        if CAMERA.value is not None:
            raise UserError("--multiview: takes a folder of photos; give it by --input")
        for name in options:
            if name != "layout":
                raise UserError(f"--{name}: not available with --multiview; leave it out")
        summary = folders.infer_multiview(predictor.person, INPUT.value, output, BOXES.value, options, log)
    elif CAMERA.value is not None:
        if BOXES.value is not None:
            raise UserError("--boxes: has boxes of files, not of a camera; leave it out")
        counts = clips.infer_camera(predictor, CAMERA.value, output, SMOOTH.value, options, log)
        summary = folders.Summary(counts)
    else:
        clip = predictor.reconstruct_clip
        summary = folders.infer_files(predictor, INPUT.value, output, BOXES.value, SMOOTH.value, options, log, clip)
    print(summary)
    return 1 if summary.failed else 0


def given_options() -> dict[str, Any]:
    """Keyword arguments of the predictor by the flags; None and False are defaults."""
    return {
        "layout": LAYOUT.value,
        "min_score": MIN_SCORE.value,
        "max_faces": MAX_FACES.value,
        "fit": FIT.value,
        "masks": MASKS.value,
        "texture": TEXTURE.value,
        "paint": None if PAINT.value is None else photo.load_rgba(PAINT.value),
    }


def log(line: str) -> None:
    """Prints a line on stderr."""
    print(line, file=sys.stderr)


if __name__ == "__main__":
    app.run(main)
