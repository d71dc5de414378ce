"""Points of the face besides the 68 landmarks, predicted by the regressor "map_fit" (`config.model.num_dense_points`).

That many points of a face, each found with its own doubt, tell its shape is shown by Wood et al., "3D Face
Reconstruction with Dense Landmarks", ECCV 2022. Which points, and that the network itself fits the face, is ours.
"""

import dataclasses

import ml_collections
import numpy as np
from scipy.spatial import cKDTree

from jaxface.geometry.camera import HEAD_TO_CAMERA
from jaxface.heads import sources
from jaxface.systems.deep3d import face_model
from jaxface.systems.deep3d.face_model import FaceModel
from jaxface.systems.deep3d.preprocessing import alignment
from jaxface.systems.deep3d.preprocessing.alignment import REFERENCE_SIZE

# Points nearer to the face's middle, in decimetres, have no mirror image.
MIDDLE_DM = 0.03


def vertices(face: FaceModel, count: int) -> np.ndarray:
    """Vertices (count,) of the face, far from each other; 2i and 2i+1 are each other's mirror image."""
    scored = np.asarray(face.scored)
    places = np.asarray(face.mean)[scored]
    left = np.flatnonzero(places[:, 0] > MIDDLE_DM)
    twin = cKDTree(places).query(places[left] * [-1, 1, 1])[1]
    chosen, distance = [], np.full(len(left), np.inf)
    for _ in range(count // 2):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(places[left] - places[left[chosen[-1]]], axis=1))
    return scored[np.stack([left[chosen], twin[chosen]], axis=1)].ravel()


def flip(count: int) -> np.ndarray:
    """For each of `vertices` the place (count,) of its mirror image."""
    return np.arange(count).reshape(-1, 2)[:, ::-1].ravel()


@dataclasses.dataclass(frozen=True)
class Points:
    """The points of a head, to tell where pictures that were rendered of it show them: mean (K,3) mm and modes of
    identity and expression (I+E,K,3)."""

    mean: np.ndarray
    modes: np.ndarray

    def in_crop(self, example: dict[str, np.ndarray], size: int) -> np.ndarray:
        """(K,2) as the landmarks of the example's crop of side `size`; NaN where it is no rendering of this head."""
        weights = [np.asarray(example[name]) for name in ("identity", "expression") if name in example]
        if sum(map(len, weights)) != len(self.modes):
            return np.full((len(self.mean), 2), np.nan, np.float32)
        shape = self.mean + np.tensordot(np.concatenate(weights), self.modes, 1)
        points = shape @ example["rotation"].T * HEAD_TO_CAMERA + example["translation"]
        points_px = example["focal_px"] * points[:, :2] / points[:, 2:] + example["center_px"]
        height, width = example["image"].shape[:2]
        return alignment.align(example["landmarks"], width, height, size).at(REFERENCE_SIZE).landmarks(points_px)


def from_config(config: ml_collections.ConfigDict) -> Points | None:
    """Those of `config.model.num_dense_points`; None where there are none."""
    if not config.model.num_dense_points:
        return None
    chosen = vertices(face_model.from_config(config), config.model.num_dense_points)
    head = sources.load_head(config.head.name, config.head.path)
    return Points(head.template[chosen], np.concatenate([head.identity[:, chosen], head.expression[:, chosen]]))
