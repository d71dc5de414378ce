"""Head models by name."""

from jaxface.errors import UserError
from jaxface.heads.bfm import load_bfm
from jaxface.heads.flame import load_flame
from jaxface.heads.ict import load_ict
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.heads.morphable import MorphableHead
from jaxface.heads.procedural import procedural_head

NAMES = ("makehuman", "procedural", "ict", "bfm", "flame")


def load_head(name: str, path: str = "") -> MorphableHead:
    """Loads a head model: `procedural`, which is part of the package, or `ict`, `bfm`, `flame` from `path`.

    Raises UserError for an unknown name, a missing path or an unreadable file.
    """
    if name == "makehuman":
        return makehuman_head()
    if name == "procedural":
        return procedural_head()
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
