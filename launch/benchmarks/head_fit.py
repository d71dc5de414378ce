"""How well a head model represents other heads: python -m launch.benchmarks.head_fit --ict FILE

Fits a head (similarity and identity modes, MAP estimate by non-rigid ICP) to the narrow face of ICT-FaceKit's mean and
of random ICT heads, and measures the distances from the face's vertices to the fitted surface. Prints a JSON line: mean
distance on the mean face and on the random faces, their 90th percentile, and the root mean square of the codes, which
is about 1 for a plausible person.
"""

import json

import numpy as np
import scipy.spatial
from absl import flags

from jaxface.geometry import icp
from jaxface.geometry.alignment import Similarity
from jaxface.geometry.surface import barycentric, closest_on_triangles
from jaxface.heads import ict, sources, subdivided
from jaxface.heads.closed import skin_vertices
from jaxface.heads.morphable import MorphableHead

from .. import app

ICT = flags.DEFINE_string("ict", None, "ICT-FaceKit: its FaceXModel folder, or an .npz file of its arrays")
HEAD = flags.DEFINE_enum("head", sources.EMBEDDED, [*sources.NAMES, sources.RETIRED], "head model that is fitted")
PATH = flags.DEFINE_string("path", "", "file or folder of the head model, where it needs one")
SUBDIVIDED = flags.DEFINE_bool("subdivided", False, "fit the head after one step of Loop subdivision")
HEADS = flags.DEFINE_integer("heads", 20, "number of random ICT heads")
SEED = flags.DEFINE_integer("seed", 0, "seed of the random heads")

# Gauss-Newton steps of a fit, and the share of the points that it uses: every third.
STEPS, EVERY = 15, 3
# Triangles that are checked for the closest point of each point, and the regions without those of the fit.
CANDIDATES = 10
# The face and its neighbourhood, mm.
BEHIND_MM, BELOW_MM = -40.0, -150.0
# Standard deviation of a distance, mm. Neighbouring distances are correlated: a fit counts this many as independent.
NOISE_MM, INDEPENDENT = 0.5, 1000
# Weight of motion along the surface relative to that across it.
SLIDING = 0.1


def main(argv: list[str]) -> None:
    """Fits the head to each face and prints the distances."""
    del argv
    faces = ict_faces(ict.load_ict(app.required(ICT)), HEADS.value, SEED.value)
    head = sources.load_head(HEAD.value, PATH.value)
    if SUBDIVIDED.value:
        head = subdivided.subdivided(head)
    distances, codes = zip(*(fit(head, *face) for face in faces), strict=True)
    means = [float(distance.mean()) for distance in distances]
    result = {
        "head": head.name,
        "subdivided": SUBDIVIDED.value,
        "modes": len(head.identity_names),
        "mean_face_mm": means[0],
        "random_faces_mm": float(np.mean(means[1:])),
        "random_faces_90_mm": float(np.mean([np.quantile(distance, 0.9) for distance in distances[1:]])),
        "codes_rms": float(np.sqrt(np.mean(np.square(codes[1:])))),
    }
    print(json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in result.items()}))


def ict_faces(head: MorphableHead, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(vertices of the narrow face (N,3) mm, landmarks (68,3) mm) of ICT's mean head and of `count` random ones."""
    first, last = ict.RANGES["face"]
    codes = np.random.default_rng(seed).standard_normal((count, len(head.identity_names)))
    faces = []
    for code in (np.zeros(codes.shape[1]), *codes):
        vertices = np.asarray(head.template) + np.tensordot(code, head.identity, 1)
        faces.append((vertices[first:last], head.landmark_points(vertices, "68")))
    return faces


def fit(head: MorphableHead, face: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fits identity modes and a similarity to a face.

    Args:
        head: the head model.
        face: (N,3) mm, points of the face.
        landmarks: (68,3) mm, used for the initial similarity only.

    Returns:
        (distances (N,) mm from the points to the fitted surface, codes (I,)).
    """
    template, modes = np.asarray(head.template, np.float64), np.asarray(head.identity, np.float64)
    triangles = np.asarray(head.triangles)
    outer = skin_vertices(head) & (template[:, 2] > BEHIND_MM) & (template[:, 1] > BELOW_MM)
    triangles = triangles[outer[triangles].all(1)]
    pose = icp.procrustes(np.asarray(head.landmark_points(template, "68")), landmarks)
    codes = np.zeros(len(modes))
    for _ in range(STEPS):
        vertices = template + np.tensordot(codes, modes, 1)
        change, motion = _update(vertices, triangles, modes, pose.inverse(face[::EVERY]), codes)
        codes += change
        pose = icp.compose(pose, motion)
    closest, _ = nearest(pose(template + np.tensordot(codes, modes, 1)), triangles, face)
    return np.linalg.norm(closest - face, axis=1), codes


def nearest(vertices: np.ndarray, triangles: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(closest points (N,3), vertices (N,3) of their triangles) among the CANDIDATES nearest triangles."""
    corners = vertices[triangles]
    _, candidates = scipy.spatial.cKDTree(corners.mean(1)).query(points, CANDIDATES)
    closest = closest_on_triangles(points[:, None], corners[candidates])
    best = np.linalg.norm(closest - points[:, None], axis=2).argmin(1)
    every = np.arange(len(points))
    return closest[every, best], triangles[candidates[every, best]]


def _update(
    vertices: np.ndarray, triangles: np.ndarray, modes: np.ndarray, target: np.ndarray, codes: np.ndarray
) -> tuple[np.ndarray, Similarity]:
    """Gauss-Newton step towards points `target` (N,3): (change of the codes (I,), motion of the head)."""
    closest, corners = nearest(vertices, triangles, target)
    weights = barycentric(closest, vertices[corners])
    normals = np.cross(vertices[corners[:, 1]] - vertices[corners[:, 0]], vertices[corners[:, 2]] - closest)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    offset, moved = target - closest, np.einsum("nk,inkd->nid", weights, modes[:, corners], optimize=True)
    rows, values = [], []
    for factor, axes in ((1.0, normals), *((SLIDING, np.tile(axis, (len(target), 1))) for axis in np.eye(3))):
        jacobian = np.concatenate(
            [np.einsum("nid,nd->ni", moved, axes), icp.point_to_plane_jacobian(closest, axes)], axis=1
        )
        rows.append(factor * jacobian)
        values.append(factor * (offset * axes).sum(1))
    rows, values = np.concatenate(rows), np.concatenate(values)
    precision = INDEPENDENT / (len(target) * NOISE_MM**2)
    prior = np.concatenate([np.ones(len(codes)), np.zeros(7)])
    matrix = precision * rows.T @ rows + np.diag(prior)
    right = precision * rows.T @ values - prior * np.concatenate([codes, np.zeros(7)])
    change = np.linalg.solve(matrix, right)
    rotation, translation, growth = change[-7:-4], change[-4:-1], 1 + change[-1]
    return change[:-7], Similarity(float(growth), icp.rotation_from_vector(rotation), translation)


if __name__ == "__main__":
    app.run(main)
