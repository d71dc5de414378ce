"""The embedded head: MakeHuman's base mesh (CC0) with modes of random people and the 52 ARKit face units.

The file is built by `launch.prepare --head makehuman` (`build`); colours are painted on loading (`paint`).
"""

import functools

import numpy as np

from jaxface.heads import head_file, paint
from jaxface.heads.morphable import MorphableHead

NAME = "makehuman"
ASSET = head_file.FOLDER / f"{NAME}.npz"
BROW_REACH_MM = 5.0


@functools.lru_cache
def makehuman_head() -> MorphableHead:
    """The head: 6.0 k vertices, identity modes of unit variance, 52 face units; loaded once."""
    stored = head_file.read(NAME)
    middle, step = int(stored["middle"]), float(stored["step_mm"])
    template = _mirrored(stored["template"], middle, 1.0)
    regions = head_file.unpack_regions(stored, len(template))
    layouts = {name: (stored[f"vertices_{name}"], stored[f"weights_{name}"]) for name in ("68", "98")}
    points_68 = (template[layouts["68"][0]] * layouts["68"][1][..., None]).sum(1)
    regions |= _brows(template, points_68, regions["face"])
    mean, albedo, albedo_names = paint.paint(template, regions, points_68)
    identity = [
        _mirrored(step * mode, middle, sign)
        for mode, sign in zip(stored["identity"], stored["identity_signs"], strict=True)
    ]
    return MorphableHead(
        template=template,
        triangles=stored["triangles"].astype(np.int32),
        identity=np.stack(identity),
        expression=(step * stored["expression"]).astype(np.float32),
        albedo_mean=mean,
        albedo=albedo,
        mirror=mirror_map(middle, len(template)),
        landmarks=layouts,
        regions=regions,
        name=NAME,
        identity_names=tuple(f"identity{i:03d}" for i in range(len(identity))),
        expression_names=tuple(str(name) for name in stored["expression_names"]),
        albedo_names=albedo_names,
        direction_names=tuple(str(name) for name in stored["direction_names"]),
        directions=stored["directions"],
        uv=stored["uv"].astype(np.float32) / 65535,
        uv_triangles=stored["uv_triangles"].astype(np.int32),
    )


def mirror_map(middle: int, count: int) -> np.ndarray:
    """Mirror map (V,) int32 of `count` vertices ordered as middle, left, mirror images of left."""
    left = np.arange(middle, middle + (count - middle) // 2)
    return np.concatenate([np.arange(middle), left + len(left), left]).astype(np.int32)


def _mirrored(half: np.ndarray, middle: int, sign: float) -> np.ndarray:
    """Values (V,3) float32 from those (H,3) of middle and left; `sign` -1 for an antisymmetric displacement."""
    return np.concatenate([half, half[middle:] * (sign * np.array([-1.0, 1.0, 1.0]))]).astype(np.float32)


def _brows(points: np.ndarray, points_68: np.ndarray, face: np.ndarray) -> dict[str, np.ndarray]:
    lines = {"brows_R": points_68[17:22], "brows_L": points_68[22:27]}
    return {name: face & (paint.distance_to_polyline(points, line) < BROW_REACH_MM) for name, line in lines.items()}
