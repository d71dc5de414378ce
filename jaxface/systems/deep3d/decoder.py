"""`System.head` of Deep3D: neutral, expressive and random heads from coefficients, in millimetres."""

import functools
from collections.abc import Callable

import ml_collections
import numpy as np

from jaxface.heads import sources
from jaxface.meshes import Mesh
from jaxface.system import HeadDecoder, Tree
from jaxface.systems.deep3d.face_model import MM_PER_DM, FaceModel, expression_scale


def decoder(
    load_face: Callable[[], FaceModel], config: ml_collections.ConfigDict, params: Tree, model_state: Tree
) -> HeadDecoder:
    """The decoder of the configured head; the network's parameters are not used.

    Coefficients are in standard deviations, so that random people are draws of a normal distribution. Weights of
    blendshapes run from 0 to 1; random ones are drawn as absolute values.
    """
    del params, model_state
    face = load_face()
    shapes = _blendshapes(config, len(face.expression))

    def sample(rng: np.random.Generator, deviations: float) -> tuple[np.ndarray, np.ndarray]:
        identity = deviations * rng.standard_normal(len(face.identity))
        expression = deviations * rng.standard_normal(len(face.expression))
        return np.float32(identity), np.float32(np.abs(expression) if shapes else expression)

    return HeadDecoder(
        identity_size=len(face.identity),
        expression_size=len(face.expression),
        mesh=functools.partial(_mesh, face),
        sample=sample,
        landmarks=functools.partial(_landmarks, face),
        blendshapes=shapes,
    )


def _mesh(face: FaceModel, identity: np.ndarray, expression: np.ndarray) -> Mesh:
    """The head before posing with the mean albedo, in mm; float64 sums, so that differences of meshes are exact."""
    offsets = np.tensordot(np.float64(identity), np.asarray(face.identity, np.float64), 1)
    offsets += np.tensordot(np.float64(expression), np.asarray(face.expression, np.float64), 1)
    vertices = MM_PER_DM * (np.asarray(face.mean, np.float64) + offsets)
    colors = np.clip(np.asarray(face.albedo_mean), 0, 1).astype(np.float32)
    return Mesh(vertices.astype(np.float32), np.asarray(face.triangles), colors=colors)


def _landmarks(face: FaceModel, vertices: np.ndarray) -> np.ndarray:
    index, weights = (np.asarray(array) for array in face.landmarks)
    return (np.float64(vertices)[index] * weights[..., None]).sum(-2)


def _blendshapes(config: ml_collections.ConfigDict, count: int) -> dict[str, np.ndarray]:
    """Coefficients (E,) of each named expression at weight 1; Basel front faces have no names."""
    if config.head.name == "bfm":
        return {}
    full = expression_modes(config, count)
    rows = np.eye(count, dtype=np.float32) * np.float32(list(full.values()))[:, None]
    return dict(zip(full, rows, strict=True))


def expression_modes(config: ml_collections.ConfigDict, count: int) -> dict[str, float]:
    """The names of `count` expression modes, and the coefficient of each at weight 1."""
    if config.head.name == "bfm":
        return {f"expression{number:02d}": 1.0 for number in range(count)}
    head = sources.load_head(config.head.name, config.head.path)
    return dict.fromkeys(head.expression_names[:count], 1 / expression_scale(head))
