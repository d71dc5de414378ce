"""Files of heads that the package contains, `assets/heads/NAME.npz`.

`load` reads the hand-written head of version 0.1: modes are int16 multiples of a step of each mode, colours float16.
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


def write_arrays(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes a compressed .npz without time stamps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue(), zipfile.ZIP_DEFLATED, 9)


def unpack_regions(stored: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """Regions name -> (V,) bool, V = `count`, of the arrays `region_names` and `regions` (packed bits) of a file."""
    bits = np.unpackbits(stored["regions"], axis=1, count=count).astype(bool)
    return {str(name): mask for name, mask in zip(stored["region_names"], bits, strict=True)}


def read(name: str) -> dict[str, np.ndarray]:
    """The arrays of `assets/heads/NAME.npz`; a zip file has a checksum for each. Raises UserError if it is damaged."""
    path = FOLDER / f"{name}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except Exception as error:  # numpy and zipfile raise any exception for damaged files
        raise UserError(f"{path}: missing or damaged ({error}); install the package again") from error


def load(name: str) -> MorphableHead:
    """Loads `assets/heads/NAME.npz`. Raises UserError if it cannot be read."""
    stored = read(name)
    layouts = [key.removeprefix("vertices_") for key in stored if key.startswith("vertices_")]
    return MorphableHead(
        template=stored["template"],
        triangles=stored["triangles"].astype(np.int32),
        mirror=stored["mirror"].astype(np.int32),
        **{key: stored[key] * stored[f"{key}_step"][:, None, None] for key in QUANTISED},
        **{key: stored[key].astype(np.float32) for key in HALF},
        **{key: tuple(str(word) for word in stored[key]) for key in NAMES},
        landmarks={layout: (stored[f"vertices_{layout}"], stored[f"weights_{layout}"]) for layout in layouts},
        regions=unpack_regions(stored, len(stored["template"])),
        name=name,
    )
