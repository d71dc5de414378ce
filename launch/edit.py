"""Edits heads by their codes: python -m launch.edit --system deep3d --codes out/photo.npz --neutral --output edited

Codes are the .npz of launch.infer (deep3d) or codes.npz of launch.fit (nphm, FILE.npz:PERSON:NUMBER). The edits are
applied in this order: --expression FILE takes the expression of another person, --neutral removes it, --set
NAME=WEIGHT sets a named blendshape (repeat it; --list_blendshapes shows the names). --to FILE --frames N interpolates
to other codes; --random N draws people instead of reading codes. Each head is written as .glb, .obj and .npz; --clip
adds a video.
"""

import contextlib
import json
import sys

import numpy as np
from absl import flags

from jaxface import edits, interrupts, meshes, outputs, video
from jaxface.edits import Codes
from jaxface.errors import UserError, disk_errors
from jaxface.system import HeadDecoder

from . import app, model

CODES = flags.DEFINE_string("codes", None, "codes of the head to edit: FILE.npz[:PERSON][:NUMBER]")
EXPRESSION = flags.DEFINE_string("expression", None, "codes whose expression the head takes")
NEUTRAL = flags.DEFINE_bool("neutral", False, "remove the expression")
SET = flags.DEFINE_multi_string("set", [], "NAME=WEIGHT, a named blendshape; may be repeated")
LIST = flags.DEFINE_bool("list_blendshapes", False, "print the names of the head's blendshapes and stop")
TO = flags.DEFINE_string("to", None, "codes to interpolate to, with --frames")
FRAMES = flags.DEFINE_integer("frames", 30, "with --to: number of heads, both ends included")
RANDOM = flags.DEFINE_integer("random", 0, "number of random people, instead of --codes")
SEED = flags.DEFINE_integer("seed", 0, "with --random: seed")
DEVIATIONS = flags.DEFINE_float("deviations", 0.85, "with --random: width of the distribution in standard deviations")
INTERPUPIL = flags.DEFINE_float("interpupil_mm", 0.0, "scale the head to this distance of the eye centres in mm")
CLIP = flags.DEFINE_bool("clip", False, "also write clip.mp4 of all heads in order")
RATE = flags.DEFINE_float("rate", 25.0, "with --clip: frames per second")
OUTPUT = flags.DEFINE_string("output", None, "folder of the results")
MANIFEST = "edit.json"
ENDINGS = (".glb", ".obj", ".npz")


def main(argv: list[str]) -> None:
    """Reads or draws codes, edits them and writes the heads."""
    del argv
    predictor = model.predictor("deep3d")
    head = predictor.head()
    if LIST.value:
        print("\n".join(head.blendshapes) or "the expressions of this head have no names")
        return
    sources = [edits.file_of(flag.value) for flag in (CODES, EXPRESSION, TO) if flag.value]
    writer = outputs.Writer(app.required(OUTPUT), sources)
    heads = edited(head)
    names = [f"{name}{ending}" for name in heads for ending in ENDINGS] + ["clip.mp4"] * CLIP.value
    writer.check(writer.folder / name for name in names)
    with disk_errors(writer.folder):
        writer.make_folder()
        # Written first, so that an interrupted run can be repeated; it keeps listing what an earlier run left.
        left = {path.name for path in writer.earlier if path.parent == writer.folder.resolve() and path.exists()}
        listing = outputs.listing({*names, *left} - {MANIFEST})
        writer.write(writer.folder / MANIFEST, json.dumps(listing, indent=2).encode())
        write(writer, heads, head)
    print(f"{len(heads)} heads written to {writer.folder}")


def edited(head: HeadDecoder) -> dict[str, Codes]:
    """The codes that the flags describe, by name of their files."""
    if (CODES.value is None) == (RANDOM.value == 0):
        raise UserError(
            "--codes, --random: exactly one of them is needed; give the codes of a head, or N for random people"
        )
    if RANDOM.value:
        people = list(edits.random_people(head, RANDOM.value, SEED.value, DEVIATIONS.value))
    else:
        people = [edits.read(CODES.value, head)]
    people = [_with_edits(codes, head) for codes in people]
    if TO.value is None:
        names = [f"random_{number:03d}" for number in range(len(people))] if RANDOM.value else ["head"]
        return dict(zip(names, people, strict=True))
    if RANDOM.value or FRAMES.value < 2:
        raise UserError("--to: interpolation needs a start and frames; give --codes and --frames of at least 2")
    between = edits.interpolate(people[0], edits.read(TO.value, head), FRAMES.value)
    return {f"frame_{number:04d}": codes for number, codes in enumerate(between)}


def _with_edits(codes: Codes, head: HeadDecoder) -> Codes:
    expression = codes.expression
    if EXPRESSION.value is not None:
        expression = edits.read(EXPRESSION.value, head).expression
    if NEUTRAL.value:
        expression = np.zeros_like(expression)
    return edits.with_blendshapes(Codes(codes.identity, expression), _weights(), head)


def _weights() -> dict[str, float]:
    weights = {}
    for text in SET.value:
        name, _, value = text.partition("=")
        try:
            weights[name] = float(value)
        except ValueError as error:
            raise UserError(f"--set {text}: malformed; give NAME=WEIGHT with a number") from error
    return weights


def write(writer: outputs.Writer, heads: dict[str, Codes], head: HeadDecoder) -> None:
    """Writes the meshes, the codes and the clip of all heads. Raises OSError if a file cannot be written."""
    stage, clip, partial = None, None, writer.folder / "clip.partial.mp4"
    with interrupts.temporary(partial):
        with contextlib.ExitStack() as stack:
            for name, codes in heads.items():
                mesh = _mesh(codes, head)
                for ending in (".glb", ".obj"):
                    writer.write(writer.folder / f"{name}{ending}", meshes.encode(mesh, ending, "mm"))
                writer.write(writer.folder / f"{name}.npz", edits.encode(codes))
                if CLIP.value:
                    stage = stage or edits.Stage.of(mesh)
                    side = edits.FRAME_PX
                    clip = clip or stack.enter_context(video.ClipWriter(partial, RATE.value, side, side))
                    clip.write(stage.render(mesh))
                print(name, file=sys.stderr)
        if CLIP.value:
            writer.replace(partial, writer.folder / "clip.mp4")


def _mesh(codes: Codes, head: HeadDecoder) -> meshes.Mesh:
    mesh = head.mesh(codes.identity, codes.expression)
    if not INTERPUPIL.value:
        return mesh
    neutral = head.mesh(codes.identity, np.zeros_like(codes.expression))
    return edits.scale_to_interpupil(mesh, head, INTERPUPIL.value, neutral)


if __name__ == "__main__":
    app.run(main)
