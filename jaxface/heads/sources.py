"""Head models by name."""

import functools

from jaxface.errors import UserError
from jaxface.heads import head_file, stand_ins
from jaxface.heads.bfm import load_bfm
from jaxface.heads.flame import load_flame
from jaxface.heads.ict import load_ict
from jaxface.heads.makehuman.head import NAME as EMBEDDED
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.heads.morphable import MorphableHead

NAMES = (EMBEDDED, "ict", "bfm", "flame")
# The embedded head of version 0.1, hand-written; models that were trained on it still load it.
RETIRED = "procedural"


def load_head(name: str, path: str = "") -> MorphableHead:
    """Loads a head model: `makehuman`, which is part of the package, or `ict`, `bfm`, `flame` from `path`.

    The path `stand_ins.PATH` gives a head of the published size without a file. Raises UserError for an unknown name,
    a missing path or an unreadable file.
    """
    if name == EMBEDDED:
        return makehuman_head()
    if name == RETIRED:
        return _retired()
    if name in NAMES and path == stand_ins.PATH:
        return stand_ins.head(name)
    if name == "ict":
        if not path:
            raise UserError(
                "head 'ict': no path given; give the FaceXModel folder of ICT-FaceKit or an .npz of its arrays"
            )
        return load_ict(path)
    if name == "bfm":
        if not path:
            raise UserError("head 'bfm': no path given; give BFM_model_front.mat, an .h5 of the model, or its folder")
        return load_bfm(path)
    if name == "flame":
        if not path:
            raise UserError("head 'flame': no path given; give the .pkl or .npz file of FLAME")
        return load_flame(path).head
    raise UserError(f"unknown head {name!r}; choose one of {', '.join(NAMES)}")


@functools.cache
def _retired() -> MorphableHead:
    return head_file.load(RETIRED)
