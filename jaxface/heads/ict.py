"""ICT-FaceKit (USC ICT, MIT licence) as a `MorphableHead`, from its folder of OBJ files or an .npz of its arrays.

Source: github.com/ICT-VGL/ICT-FaceKit; Li et al., "Learning Formation of Physically-Based Face Attributes", CVPR 2020.
The model's unit is interpreted as one centimetre (outer eye corners 8.9 apart), so vertices are multiplied by 10.
The model has no albedo; `paint` provides it.
"""

import json
import pathlib

import numpy as np

from jaxface import array_files
from jaxface.errors import UserError
from jaxface.heads import landmarks, paint
from jaxface.heads.mirroring import mirror_map
from jaxface.heads.morphable import MorphableHead

MM_PER_UNIT = 10.0
# (neutral (V,3), identity modes (I,V,3), expression modes (E,V,3), expression names, triangles (T,3)), model units.
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...], np.ndarray]
VERTICES = 26719
IDENTITIES = 100
NECK_MM = -95.0
# The published narrow face continues below the chin; our region `face` ends at the chin.
CHIN, BELOW_CHIN_MM = 966, 6.0
# Hairline: height above the origin as a function of z, from the back of the head (z < 0) to the forehead.
HAIRLINE_Z_MM = (-90.0, -30.0, 12.0, 32.0, 70.0)
HAIRLINE_Y_MM = (-60.0, -40.0, 5.0, 58.0, 90.0)

# Half-open vertex ranges of the published mesh (its README).
RANGES = {
    "skin": (0, 11248),
    "face": (0, 6706),
    "mouth": (11248, 21451),
    "teeth": (17039, 21451),
    "eyeball_L": (21451, 23021),
    "eyeball_R": (23021, 24591),
    "iris_L": (22221, 23021),
    "iris_R": (23791, 24591),
    "transparent": (24591, 26719),
}
EYE_SOCKETS = (13294, 14062)

# Layout 68 as on the embedded head: the Multi-PIE vertices of the README, except for the points whose place is a matter
# of convention. Jaw points 5-7 and 9-11 divide the jaw's length as those of the embedded head do; the README's lie up
# to 6 % of the distance of the outer eye corners nearer to the chin. Brow points lie on the brow ridge, where the
# expressions move it most and where brows are on photos; the README's lie 5 to 9 % higher. Bridge and wings of the nose
# and the points along the lips lie where those of the embedded head do; the README's wings lie 2 to 3 % lower, and its
# lip points up to 4 % farther from the middle.
LANDMARKS_68 = (
    1225, 1888, 1052, 367, 1719, 765, 242, 1443, 966, 3657, 2483, 3006, 3924, 2608, 3272, 4088, 3443,
    270, 1009, 1032, 2037, 2003, 4203, 4233, 3252, 3229, 2511,
    971, 4527, 4942, 4857, 4559, 2076, 1147, 4270, 5024,
    1507, 1542, 1537, 1528, 1518, 1511, 3742, 3751, 3756, 3721, 3725, 3732,
    5708, 5720, 2069, 5525, 4263, 6225, 6213, 6357, 6508, 5518, 6004, 5852,
    5702, 5736, 5533, 6241, 6207, 6485, 5517, 5981,
)  # fmt: skip


def load_ict(path: str | pathlib.Path) -> MorphableHead:
    """Loads ICT-FaceKit: 26,719 vertices, 100 identity and 53 expression modes.

    `path` is the folder with `generic_neutral_mesh.obj` (FaceXModel in the repository) or an .npz of the arrays
    neutral, identity_q, identity_scale, expression_q, expression_scale, expression_names, triangles. Raises UserError
    if the path is neither, or if the mesh has another number of vertices.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        try:
            neutral, identity, expression, names, triangles = _read_folder(path)
        except (ValueError, LookupError, TypeError, OSError, RecursionError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path}: a file of ICT-FaceKit is damaged ({error}); download it again") from error
    elif path.is_file():
        neutral, identity, expression, names, triangles = _read_npz(path)
    else:
        raise UserError(
            f"{path}: no such file or folder; give the FaceXModel folder of ICT-FaceKit or an .npz of its arrays"
        )
    if len(neutral) != VERTICES:
        raise UserError(f"{path}: {len(neutral)} vertices, but ICT-FaceKit has {VERTICES}; give the original files")
    if not all(np.isfinite(array).all() for array in (neutral, identity, expression)):
        raise UserError(f"{path}: has values that are not finite; give the original files")
    return _assemble(MM_PER_UNIT * neutral, MM_PER_UNIT * identity, MM_PER_UNIT * expression, names, triangles)


def _read_npz(path: pathlib.Path) -> Arrays:
    data = array_files.read_npz(path)
    try:
        identity = data["identity_q"] * data["identity_scale"][:, None, None]
        expression = data["expression_q"] * data["expression_scale"][:, None, None]
        names = tuple(str(name) for name in data["expression_names"])
        return data["neutral"], identity, expression, names, data["triangles"]
    except (LookupError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not an .npz of ICT-FaceKit's arrays ({error}); make it again") from error


def _read_obj(path: pathlib.Path) -> tuple[np.ndarray, list[list[int]]]:
    """(vertices (V,3), polygons) in file order, which is significant; mesh libraries merge or split vertices."""
    if not path.is_file():
        raise UserError(f"{path.parent}: {path.name} is missing; give the FaceXModel folder of ICT-FaceKit")
    vertices, polygons = [], []
    for line in path.read_text().splitlines():
        if line.startswith("v "):
            vertices.append([float(value) for value in line.split()[1:4]])
        elif line.startswith("f "):
            polygons.append([int(corner.split("/")[0]) - 1 for corner in line.split()[1:]])
    return np.array(vertices, np.float32), polygons


def _read_folder(folder: pathlib.Path) -> Arrays:
    neutral, polygons = _read_obj(folder / "generic_neutral_mesh.obj")
    triangles = [(p[0], p[i], p[i + 1]) for p in polygons for i in range(1, len(p) - 1)]
    index_path = folder / "vertex_indices.json"
    if not index_path.is_file():
        raise UserError(
            f"{folder}: vertex_indices.json is missing, which lists the expressions; copy it from ICT-FaceKit"
        )
    names = tuple(json.loads(index_path.read_text())["expressions"])
    identity = [_read_obj(folder / f"identity{i:03d}.obj")[0] - neutral for i in range(IDENTITIES)]
    expression = [_read_obj(folder / f"{name}.obj")[0] - neutral for name in names]
    return neutral, np.stack(identity), np.stack(expression), names, np.array(triangles, np.int32)


def _mirrored_parts() -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Vertex ranges for `mirror_map`: parts that cross the plane of symmetry, and pairs of a left and a right part."""
    central = [(0, 9409), (9409, 11248), (11248, 13294), (14062, 17039), (17039, 21451)]
    left = [(13294, 13678), (21451, 22221), (22221, 23021), (24591, 24795), (24999, 25023), (25047, 25199)]
    left += [(25351, 26035)]
    right = [(13678, 14062), (23021, 23791), (23791, 24591), (24795, 24999), (25023, 25047), (25199, 25351)]
    right += [(26035, 26719)]
    return [(part, part) for part in central] + list(zip(left, right, strict=True))


def _regions(template: np.ndarray) -> dict[str, np.ndarray]:
    index = np.arange(len(template))
    regions = {name: (index >= first) & (index < last) for name, (first, last) in RANGES.items()}
    skin = regions.pop("skin")
    regions["socket"] = (index >= EYE_SOCKETS[0]) & (index < EYE_SOCKETS[1])
    regions["mouth"] &= ~regions["socket"]
    # The published range is a second ball inside the eyeball; the iris is its front.
    for name in ("iris_L", "iris_R"):
        center = (template[regions[name]].max(0) + template[regions[name]].min(0)) / 2
        offset = template - center
        regions[name] &= (offset[:, 2] > 0) & (np.hypot(offset[:, 0], offset[:, 1]) < paint.IRIS_RADIUS_MM)
    x, y, z = template.T
    regions["face"] &= y > template[CHIN, 1] - BELOW_CHIN_MM
    regions["lips"] = skin & paint.lip_mask(template, template[list(LANDMARKS_68)])
    regions["ears"] = skin & (np.abs(x) > 75) & (np.abs(z - 5) < 28) & (np.abs(y + 8) < 38)
    regions["neck"] = skin & ~regions["face"] & (y < NECK_MM + 0.5 * np.maximum(0, 60 - z))
    regions["scalp"] = skin & ~regions["ears"] & (y > np.interp(z, HAIRLINE_Z_MM, HAIRLINE_Y_MM))
    return regions


def _landmarks(template: np.ndarray, regions: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Layout 68, and layout 98 resampled from it and snapped to the nearest vertices of skin or eyeballs."""
    points = template[list(LANDMARKS_68)]
    irises = (template[regions[name]] for name in ("iris_R", "iris_L"))
    pupils = np.stack([iris[iris[:, 2].argmax()] for iris in irises])
    allowed = np.arange(len(template)) < RANGES["skin"][1]
    allowed |= regions["eyeball_L"] | regions["eyeball_R"]
    everywhere = np.ones(len(template), bool)
    return {
        "68": landmarks.snap(points, template, everywhere),
        "98": landmarks.snap(landmarks.wflw_from_ibug(points, pupils), template, allowed),
    }


def _assemble(template, identity, expression, names, triangles) -> MorphableHead:
    regions = _regions(template)
    mean, albedo, albedo_names = paint.paint(template, regions, template[list(LANDMARKS_68)])
    return MorphableHead(
        template=template.astype(np.float32),
        triangles=np.asarray(triangles, np.int32),
        identity=identity.astype(np.float32),
        expression=expression.astype(np.float32),
        albedo_mean=mean,
        albedo=albedo,
        mirror=mirror_map(template, _mirrored_parts()),
        landmarks=_landmarks(template, regions),
        regions=regions,
        name="ict",
        identity_names=tuple(f"identity{i:03d}" for i in range(len(identity))),
        expression_names=names,
        albedo_names=albedo_names,
    )
