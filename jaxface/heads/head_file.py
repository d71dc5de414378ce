"""A `MorphableHead` as an .npz: the heads that the package contains, `assets/heads/NAME.npz`.

Modes are stored as int16 multiples of a step that fits each mode, colours as float16. Zip entries carry no time stamps,
so equal heads give equal files.
"""

import io
import pathlib
import zipfile

import numpy as np

import jaxface
from jaxface.errors import UserError
from jaxface.heads.morphable import MorphableHead

FOLDER = pathlib.Path(jaxface.__file__).parent / "assets" / "heads"
QUANTISED = ("identity", "expression")
HALF = ("albedo_mean", "albedo")
NAMES = ("identity_names", "expression_names", "albedo_names")
LARGEST_STEP = 32767


def write_arrays(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes a compressed .npz without time stamps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue(), zipfile.ZIP_DEFLATED, 9)


def save(path: pathlib.Path, head: MorphableHead) -> None:
    """Writes a head."""
    arrays = {
        "template": np.asarray(head.template, np.float32),
        "triangles": np.asarray(head.triangles, np.uint16),
        "mirror": np.asarray(head.mirror, np.uint16),
        **{name: np.asarray(getattr(head, name), np.float16) for name in HALF},
        **{name: np.array(getattr(head, name)) for name in NAMES},
        "region_names": np.array(list(head.regions)),
        "regions": np.packbits(np.stack(list(head.regions.values())), axis=1),
    }
    for name in QUANTISED:
        modes = np.asarray(getattr(head, name), np.float64)
        step = np.abs(modes).max(axis=(1, 2)) / LARGEST_STEP
        arrays[name] = np.round(modes / step[:, None, None]).astype(np.int16)
        arrays[f"{name}_step"] = step.astype(np.float32)
    for layout, (vertices, weights) in head.landmarks.items():
        arrays[f"vertices_{layout}"], arrays[f"weights_{layout}"] = vertices, weights
    write_arrays(path, arrays)


def load(name: str) -> MorphableHead:
    """Loads `assets/heads/NAME.npz`. Raises UserError if it cannot be read."""
    path = FOLDER / f"{name}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            stored = {key: file[key] for key in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read ({error}); install the package again") from error
    count = len(stored["template"])
    bits = np.unpackbits(stored["regions"], axis=1, count=count).astype(bool)
    layouts = [key.removeprefix("vertices_") for key in stored if key.startswith("vertices_")]
    return MorphableHead(
        template=stored["template"],
        triangles=stored["triangles"].astype(np.int32),
        mirror=stored["mirror"].astype(np.int32),
        **{key: stored[key] * stored[f"{key}_step"][:, None, None] for key in QUANTISED},
        **{key: stored[key].astype(np.float32) for key in HALF},
        **{key: tuple(str(word) for word in stored[key]) for key in NAMES},
        landmarks={layout: (stored[f"vertices_{layout}"], stored[f"weights_{layout}"]) for layout in layouts},
        regions={str(region): mask for region, mask in zip(stored["region_names"], bits, strict=True)},
        name=name,
    )
