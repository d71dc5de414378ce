"""Scans as point clouds: points of a file, their unit, and the similarity from the scan's frame to the model's.

The model's frame has x to the subject's left, y up, z out of the face, and units of 250 mm (FLAME's metres times 4).
"""

import functools
import itertools
import logging
import pathlib

import numpy as np
import scipy.spatial

from jaxface import array_files, meshes
from jaxface.errors import UserError
from jaxface.geometry import icp, sampling
from jaxface.geometry.alignment import Similarity
from jaxface.heads.head_space import ANCHORS, MM_PER_UNIT, ON_FACE
from jaxface.meshes import Mesh

# Model units per unit of a scan.
UNITS = {unit: mm / MM_PER_UNIT for unit, mm in meshes.MM_PER.items()}
# Extents in mm of a face, a head or a bust: possible ones, and likely ones, which are preferred. A second unit that
# gives a possible extent of at least DOUBTFUL_MM is worth a warning. A unit that the user states may be off by a
# factor.
POSSIBLE_MM, LIKELY_MM, DOUBTFUL_MM, STATED_FACTOR = (75.0, 700.0), (150.0, 600.0), 120.0, 4.0
# Units in order of preference, where the extent is likely in several of them.
PREFERENCE = ("mm", "cm", "m", "nphm", "in")
MIN_POINTS, MAX_POINTS = 100, 20_000
# Largest number of times that a point of the face takes part in a fit.
MOST_REPEATS = 8
# Trimmed ICP: share of correspondences that are kept, closest first; the model has neither hair nor shoulders.
TRIMMED_SHARE = 0.8
# ICP from every orientation uses few points and steps; the REFINED best results are continued with more.
COARSE_POINTS, COARSE_STEPS, FINE_POINTS, FINE_STEPS, REFINED = 200, 12, 2000, 40, 4
# `follow` ends when no point moves by this much, in model units.
FOLLOW_TOLERANCE = 1e-4
# The ICP error from the unrotated start is multiplied by this, so that another orientation must be clearly better.
UPRIGHT_PREFERENCE = 0.75
# Vertices of the head above this percentile of z are its face.
FACE_PERCENTILE = 70
# Largest deviation of R R^T from the identity in a matrix that a user gives.
MAX_SHEAR = 0.01

LOGGER = logging.getLogger(__name__)


def scan_points(mesh: Mesh, name: str, seed: int = 0) -> np.ndarray:
    """At most MAX_POINTS points (N,3) float64 of a scan: surface samples if it has faces, else vertices.

    UserError, starting with the scan's `name`, if there are too few points or the scan has no extent.
    """
    rng = np.random.default_rng(seed)
    if len(mesh.vertices) < MIN_POINTS:
        raise UserError(f"{name}: {len(mesh.vertices)} points are too few; a scan needs at least {MIN_POINTS}")
    if len(mesh.triangles):
        try:
            samples = sampling.sample(mesh.vertices, mesh.triangles, MAX_POINTS, rng)
        except ValueError as error:
            raise UserError(f"{name}: its faces have no area; use a scan of a head") from error
        # Samples are float32: without the origin they keep the precision of georeferenced scans.
        origin = np.asarray(mesh.vertices[0], np.float64)
        return samples.on(mesh.vertices - origin, mesh.triangles) + origin
    points = np.asarray(mesh.vertices, np.float64)
    if len(points) > MAX_POINTS:
        points = points[rng.choice(len(points), MAX_POINTS, replace=False)]
    if np.ptp(points, axis=0).max() <= 0:
        raise UserError(f"{name}: all points are at the same position; use a scan of a head")
    return points


def with_face_share(points: np.ndarray, mean_anchors: np.ndarray, share: float) -> np.ndarray:
    """A scan in the model's frame of which the points of the face and the ears are at least a share, by repetition.

    A whole head is mostly neck and scalp, so a fit to points that are even over the scan would neglect the face.

    Args:
        points: (N,3).
        mean_anchors: the model's mean anchors (39,3), those of `head_space.ANCHORS`; a point is of the face if its
            nearest anchor is.
        share: wanted share in [0,1); a point is repeated at most MOST_REPEATS times.

    Raises:
        UserError: the model has other anchors.
    """
    if not share:
        return points
    if len(mean_anchors) != len(ANCHORS):
        raise UserError(f"config.fit.face_share: unknown for a model with {len(mean_anchors)} anchors; set it to 0")
    on_face = ON_FACE[scipy.spatial.cKDTree(mean_anchors).query(points)[1]]
    count, others = int(on_face.sum()), int((~on_face).sum())
    wanted = round(min(others * share / (1 - share), MOST_REPEATS * count))
    return points if wanted <= count else np.concatenate([np.resize(points[on_face], (wanted, 3)), points[~on_face]])


def infer_unit(points: np.ndarray, name: str, stated: str | None = None) -> str:
    """The unit of a scan, a key of UNITS, inferred from its extent.

    If the extent is that of a head in several units, the first of PREFERENCE is taken and a warning names the others.

    Args:
        points: (N,3).
        name: the scan in messages.
        stated: a unit given by the user; it is taken unless it is wrong by far.

    Raises:
        UserError: no unit, or not the stated one, gives a plausible head size.
    """
    low, high = np.percentile(points, [1, 99], axis=0)
    extent = float((high - low).max())
    sizes_mm = {unit: extent * meshes.MM_PER[unit] for unit in PREFERENCE}
    if stated:
        return _checked_unit(name, extent, sizes_mm[stated], stated)
    possible = [unit for unit, size in sizes_mm.items() if POSSIBLE_MM[0] <= size <= POSSIBLE_MM[1]]
    if not possible:
        raise UserError(
            f"{name}: extent {extent:.3g} is not a plausible head size in mm, cm, m or nphm, nor in inches; "
            "rescale the scan"
        )
    likely = [unit for unit in possible if LIKELY_MM[0] <= sizes_mm[unit] <= LIKELY_MM[1]]
    taken = (likely or possible)[0]
    others = [unit for unit in possible if unit != taken and sizes_mm[unit] >= DOUBTFUL_MM]
    if others:
        sizes = ", ".join(f"{unit} ({sizes_mm[unit]:.0f} mm)" for unit in (taken, *others))
        LOGGER.warning("%s: extent %.3g is possible in %s; %s is taken, pass --units", name, extent, sizes, taken)
    return taken


def _checked_unit(name: str, extent: float, size_mm: float, stated: str) -> str:
    """The stated unit. Raises UserError if it is wrong by far; warns if the extent is unusual in it."""
    low, high = POSSIBLE_MM
    if not low / STATED_FACTOR <= size_mm <= high * STATED_FACTOR:
        raise UserError(f"{name}: extent {extent:.3g} {stated} is not a plausible head size; pass a different --units")
    if not low <= size_mm <= high:
        LOGGER.warning("%s: extent %.3g %s is unusual for a head, check --units", name, extent, stated)
    return stated


def load_similarity(path: str, mean_anchors: np.ndarray) -> Similarity:
    """Reads the similarity from a scan to the model from a file (.npy or text).

    Args:
        path: a (4,4) matrix from scan coordinates to model units, or anchors (A,3) in the scan's frame; NaN rows are
            ignored, at least three must be finite.
        mean_anchors: the model's mean anchors (A,3).

    Raises:
        UserError: the file holds anything else.
    """
    values = _read_numbers(path)
    if values.shape == (4, 4):
        scale = np.cbrt(np.linalg.det(values[:3, :3]))
        rotation = values[:3, :3] / scale if scale > 0 else np.zeros((3, 3))
        if not np.isfinite(values).all() or not np.allclose(rotation @ rotation.T, np.eye(3), atol=MAX_SHEAR):
            raise UserError(f"--align: the matrix in {path} is not a similarity without reflection; pass one")
        return Similarity(float(scale), rotation, values[:3, 3])
    valid = np.isfinite(values).all(-1) if values.shape == mean_anchors.shape else np.zeros(0, bool)
    if valid.sum() < 3:
        raise UserError(
            f"--align: {path} holds an array {values.shape}; it must be a (4,4) matrix to model units, or "
            f"{mean_anchors.shape} anchors in the scan's frame, at least 3 of them finite"
        )
    return icp.procrustes(values[valid], mean_anchors[valid].astype(np.float64))


def _read_numbers(path: str) -> np.ndarray:
    if path.endswith(".npy"):
        try:
            return array_files.read_npy(path)
        except UserError as error:
            raise UserError(f"--align: {error}") from error
    try:
        return np.loadtxt(pathlib.Path(path))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--align: {path} cannot be read as numbers ({reason}); pass auto, none or a file") from error


def align(points: np.ndarray, unit: str, head: np.ndarray) -> Similarity:
    """Rigid alignment of a scan, in any orientation, to the mean head by trimmed point-to-point ICP.

    ICP starts from the 24 axis-aligned orientations, with the scan's median at that of the head or of its face, since a
    scan may cover a part of a head only. The scale is fixed by the unit, because ICP with a free scale collapses.

    Args:
        points: the scan (N,3).
        unit: its unit.
        head: points (M,3) of the mean head in model units.

    Returns:
        The similarity from the scan to the model.
    """
    rng, tree = np.random.default_rng(0), scipy.spatial.cKDTree(head)
    scaled = (UNITS[unit] * points).astype(np.float64)
    coarse, fine = (scaled[rng.permutation(len(scaled))[:count]] for count in (COARSE_POINTS, FINE_POINTS))
    face = head[head[:, 2] > np.percentile(head[:, 2], FACE_PERCENTILE)]
    center = np.median(coarse, axis=0)
    targets = np.median(head, axis=0), np.median(face, axis=0)
    candidates = []
    for rotation, target in itertools.product(icp.axis_rotations(), targets):
        start = Similarity(1.0, rotation, target - rotation @ center)
        pose, error = _trimmed_icp(tree, coarse, start, COARSE_STEPS)
        upright = np.allclose(rotation, np.eye(3))
        candidates.append((error, UPRIGHT_PREFERENCE if upright else 1.0, pose))
    refined = []
    for _, preference, pose in sorted(candidates, key=lambda one: one[0] * one[1])[:REFINED]:
        pose, error = _trimmed_icp(tree, fine, pose, FINE_STEPS)
        refined.append((error * preference, pose))
    pose = min(refined, key=lambda one: one[0])[1]
    return Similarity(UNITS[unit], pose.rotation, pose.translation)


def follow(points: np.ndarray, start: Similarity, head: Mesh) -> tuple[Similarity, float]:
    """Rigid alignment of a scan to a head from a start that is nearly right, by robust point-to-plane ICP.

    Args:
        points: the scan (N,3).
        start: similarity from the scan to the model; its scale is kept.
        head: the head in model units.

    Returns:
        The similarity from the scan to the model, and the mean distance in model units of the TRIMMED_SHARE of points
        that are closest to the head.
    """
    some = np.float64(points[np.random.default_rng(0).permutation(len(points))[:FINE_POINTS]])
    tree = scipy.spatial.cKDTree(head.vertices)
    normals = sampling.vertex_normals(head.vertices, head.triangles)

    def match(pose: Similarity) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        moved = pose(some)
        _, index = tree.query(moved)
        return moved, np.asarray(tree.data)[index], normals[index]

    update = functools.partial(icp.point_to_plane_update, scale=False)
    pose = icp.icp(start, match, update, FINE_STEPS, FOLLOW_TOLERANCE)
    distance, _ = tree.query(pose(some))
    return pose, float(np.sort(distance)[: max(int(TRIMMED_SHARE * len(some)), 3)].mean())


def _trimmed_icp(
    tree: scipy.spatial.cKDTree, points: np.ndarray, start: Similarity, steps: int
) -> tuple[Similarity, float]:
    """Trimmed rigid ICP of points (N,3) to those of `tree`: (pose, mean distance of the kept correspondences)."""
    count = max(int(TRIMMED_SHARE * len(points)), 3)

    def match(pose: Similarity) -> tuple[np.ndarray, np.ndarray]:
        moved = pose(points)
        distance, index = tree.query(moved)
        kept = np.argpartition(distance, count - 1)[:count]
        return moved[kept], tree.data[index[kept]]

    pose = icp.icp(start, match, functools.partial(icp.procrustes, scale=False), steps)
    distance, _ = tree.query(pose(points))
    return pose, float(np.sort(distance)[:count].mean())
