"""Heads by name: where each comes from and what it needs from the user."""

from jaxface.errors import UserError
from jaxface.heads.bfm import load_bfm
from jaxface.heads.flame import load_flame
from jaxface.heads.ict import load_ict
from jaxface.heads.morphable import MorphableHead
from jaxface.heads.procedural import procedural_head

NAMES = ("procedural", "ict", "bfm", "flame")


def load_head(name: str, path: str = "") -> MorphableHead:
    """The head `procedural` (embedded, no path), `ict`, `bfm` or `flame` (from `path`). UserError: what is missing."""
    if name == "procedural":
        return procedural_head()
    if name == "ict":
        if not path:
            raise UserError("head 'ict' needs the path of ICT-FaceKit: its FaceXModel folder or an .npz of its arrays")
        return load_ict(path)
    if name == "bfm":
        if not path:
            raise UserError("head 'bfm' needs the path of a Basel Face Model: BFM_model_front.mat, an .h5, or a folder")
        return load_bfm(path)
    if name == "flame":
        if not path:
            raise UserError("head 'flame' needs the path of a FLAME model: its .pkl or .npz file")
        return load_flame(path).head
    raise UserError(f"unknown head {name!r}; choose one of {', '.join(NAMES)}")
