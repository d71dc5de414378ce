"""Dense landmarks: face points that the regressor "map_fit" predicts besides the 68 landmarks.

Wood et al., "3D Face Reconstruction with Dense Landmarks", ECCV 2022, show that many points, each with its own
uncertainty, determine the shape of a face. The choice of points is ours, and so is fitting inside the network.
"""

import dataclasses

import ml_collections
import numpy as np
from scipy.spatial import cKDTree

from jaxface.geometry.camera import HEAD_TO_CAMERA
from jaxface.heads import noses, sources
from jaxface.systems.deep3d import face_model
from jaxface.systems.deep3d.face_model import FaceModel
from jaxface.systems.deep3d.preprocessing import alignment
from jaxface.systems.deep3d.preprocessing.alignment import REFERENCE_SIZE

# Points closer than this to the symmetry plane are not selected: their mirror image would be (nearly) the same point.
MIDLINE_DM = 0.03
# Fields of a rendered example that determine the shape of its head.
WEIGHTS = ("identity", "expression", "nose")


def select_vertices(face: FaceModel, count: int) -> np.ndarray:
    """Vertices (count,) of the face region by farthest-point sampling; 2i and 2i+1 are mirror images of each other.

    Points are sampled on the subject's left half; each is paired with the vertex nearest to its mirror image.
    """
    candidates = np.asarray(face.face_vertices)
    positions = np.asarray(face.mean)[candidates]
    left = np.flatnonzero(positions[:, 0] > MIDLINE_DM)
    mirrored = cKDTree(positions).query(positions[left] * [-1, 1, 1])[1]
    selected, distance = [], np.full(len(left), np.inf)
    for _ in range(count // 2):
        selected.append(int(distance.argmax()))
        to_last = np.linalg.norm(positions[left] - positions[left[selected[-1]]], axis=1)
        distance = np.minimum(distance, to_last)
    return candidates[np.stack([left[selected], mirrored[selected]], axis=1)].ravel()


def mirror(count: int) -> np.ndarray:
    """Flip map (count,) of `select_vertices`: the index of each point's mirror image."""
    return np.arange(count).reshape(-1, 2)[:, ::-1].ravel()


@dataclasses.dataclass(frozen=True)
class DensePoints:
    """Selected points of a head, with their projection into rendered examples of that head.

    Attributes:
        mean: (K,3) in mm.
        modes: (I+E+1,K,3) mm, identity and expression modes per unit weight of the head (not of `FaceModel`), and the
            displacement of the nose.
    """

    mean: np.ndarray
    modes: np.ndarray

    def in_crop(self, example: dict[str, np.ndarray], size: int) -> np.ndarray:
        """Positions (K,2) in pixels of the example's 224 px crop, y up; NaN unless it is a rendering of this head.

        example: a record of `rendered_heads`, with its image, landmarks, camera, pose and head weights.
        size: side of the crop that the network reads; it determines whether the alignment is rounded, see `alignment`.
        """
        weights = [np.asarray(example[name]) for name in WEIGHTS if name in example]
        if sum(map(np.size, weights)) != len(self.modes):
            return np.full((len(self.mean), 2), np.nan, np.float32)
        shape = self.mean + np.tensordot(np.hstack(weights), self.modes, 1)
        points = shape @ example["rotation"].T * HEAD_TO_CAMERA + example["translation"]
        points_px = example["focal_px"] * points[:, :2] / points[:, 2:] + example["center_px"]
        height, width = example["image"].shape[:2]
        crop = alignment.align(example["landmarks"], width, height, size)
        return crop.with_size(REFERENCE_SIZE).to_crop(points_px)


def from_config(config: ml_collections.ConfigDict) -> DensePoints | None:
    """The `config.model.num_dense_points` dense points of the configured head; None for 0."""
    if not config.model.num_dense_points:
        return None
    vertices = select_vertices(face_model.from_config(config), config.model.num_dense_points)
    head = sources.load_head(config.head.name, config.head.path)
    nose = np.asarray(noses.displacement(head, 1.0))
    modes = np.concatenate([head.identity, head.expression, nose[None]])[:, vertices]
    return DensePoints(head.template[vertices], modes)
