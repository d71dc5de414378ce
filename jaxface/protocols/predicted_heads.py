"""Neutral heads to score: reconstructed from photos by a model, or read from a folder of meshes and landmarks."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from jaxface import meshes, photo
from jaxface.errors import UserError
from jaxface.inference import Predictor

MESH_ENDINGS, LANDMARK_ENDINGS = (".obj", ".ply"), (".npy", ".txt")


@dataclasses.dataclass(frozen=True)
class Head:
    """A predicted head.

    Attributes:
        vertices: (V,3) float64, in mm from a model, in its own unit from a folder.
        triangles: (T,3).
        landmarks: (68,3) from a model; the seven of NoW (7,3) from a folder.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    landmarks: np.ndarray


def identity_of(predictor: Predictor, paths: Sequence[pathlib.Path]) -> Head:
    """The neutral head of the person in one or several photos, in mm.

    The largest face of each photo counts; several photos are reconstructed with one identity.

    Raises:
        UserError: a photo cannot be read, no face is found, or the system does not reconstruct heads from photos.
    """
    faces = reconstructions(predictor, paths)
    head = predictor.head()
    mesh = head.mesh(faces[0].coefficients["identity"], np.zeros(head.expression_size, np.float32))
    return _head(predictor, mesh, faces[0].size)


def posed_of(predictor: Predictor, path: pathlib.Path) -> Head:
    """The head of the largest face in a photo with its expression, in mm; errors as `identity_of`."""
    (face,) = reconstructions(predictor, [path])
    mesh = predictor.head().mesh(face.coefficients["identity"], face.coefficients["expression"])
    return _head(predictor, mesh, face.size)


def reconstructions(predictor: Predictor, paths: Sequence[pathlib.Path]) -> list:
    """The reconstruction of the largest face of each photo that shows one; errors as `identity_of`."""
    if predictor.system.predict_multiview is None:
        raise UserError(f"{predictor.config.system}: does not reconstruct heads from photos; use deep3d")
    photos = [photo.load(path) for path in paths]
    results = [predictor(photos[0])[:1]] if len(photos) == 1 else predictor.person(photos)
    faces = [face for per_photo in results for face in per_photo]
    if not faces:
        raise UserError(f"{paths[0].name}: no face found; check the image")
    return faces


def _head(predictor: Predictor, mesh: meshes.Mesh, size: float | None) -> Head:
    """The head of a mesh in the model's millimetres, in its true size if the model predicts it."""
    landmarks = predictor.head().landmarks
    if landmarks is None:
        raise UserError(
            f"{predictor.config.system}: its heads have no landmarks to start the alignment from; use deep3d"
        )
    ratio = 1.0 if size is None else size
    vertices = ratio * mesh.vertices.astype(np.float64)
    return Head(vertices, mesh.triangles, ratio * landmarks(mesh.vertices))


def from_folder(path: pathlib.Path) -> Head:
    """The mesh PATH.obj or PATH.ply with seven landmarks in PATH.npy or PATH.txt (7,3).

    Raises UserError if a file is missing or malformed.
    """
    mesh_path = _existing(path, MESH_ENDINGS)
    mesh = meshes.read(mesh_path)
    if not len(mesh.triangles):
        raise UserError(f"{mesh_path}: has no triangles; write the mesh with its faces")
    return Head(mesh.vertices.astype(np.float64), mesh.triangles, _landmarks(_existing(path, LANDMARK_ENDINGS)))


def _existing(path: pathlib.Path, endings: tuple[str, ...]) -> pathlib.Path:
    for ending in endings:
        if (candidate := path.with_name(path.name + ending)).is_file():
            return candidate
    raise UserError(f"{path}: no file with the ending {' or '.join(endings)}; predict this image too")


def _landmarks(path: pathlib.Path) -> np.ndarray:
    try:
        points = np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(path, ndmin=2)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not seven landmarks ({error}); write 7 rows x y z") from error
    if points.shape != (7, 3) or not np.isfinite(points).all():
        raise UserError(f"{path}: array of shape {points.shape}; write 7 rows of finite x y z")
    return points.astype(np.float64)
