"""Lip closure (ours): the lips of a mouth that is closed in the image touch.

The photometric refinement leaves out the lips, and landmarks are known to a millimetre or two, which is nothing for a
shape but visible as a black slit between lips. The opening of the mouth is therefore taken from the detected landmarks:
where they say that the lips touch, the expression is changed so that they do, and the other landmarks stay.
"""

import numpy as np

from jaxface.systems.deep3d.face_model import FaceModel, at_landmarks
from jaxface.systems.deep3d.preprocessing.alignment import REFERENCE_SIZE, Crop
from jaxface.systems.deep3d.rendering.image_formation import CAMERA_DM, FOCAL_PX, Sizes

# Inner lips among the 68 landmarks: corresponding points of the upper and the lower lip.
UPPER, LOWER = [61, 62, 63], [67, 66, 65]
# Detected openings up to the first one are closed mouths; from the second one on, the opening is that of the network.
CLOSED_DM, OPEN_DM = 0.02, 0.035
# Landmarks within this distance of the mean face's mouth are free to move while lips close, in dm; the others are held
# to this standard deviation, as are all coefficients to one standard deviation.
MOUTH_DM, HELD_STD_DM = 0.35, 0.01


def close_lips(
    face: FaceModel, sizes: Sizes, vector: np.ndarray, rotation: np.ndarray, crop: Crop, points_px: np.ndarray
) -> np.ndarray:
    """The coefficients with lips that touch if they touch in the image, and that never cut through each other.

    Args:
        face: the face model.
        sizes: numbers of coefficients.
        vector: (sizes.total,).
        rotation: (3,3), of the angles in `vector`.
        crop: the crop of which `vector` was predicted.
        points_px: (68,2) detected landmarks in the image.
    """
    parts = sizes.split(vector)
    points = np.asarray(at_landmarks(face, face.mean), np.float64)
    modes = np.asarray(at_landmarks(face, face.expression), np.float64)
    identity = np.asarray(at_landmarks(face, face.identity), np.float64)
    touching = _gaps(points)
    shape = points + np.tensordot(parts["identity"], identity, 1) + np.tensordot(parts["expression"], modes, 1)
    opening = _gaps(shape) - touching
    detected = _detected_gaps(shape, rotation, parts["translation"], crop, points_px) - touching
    share = np.clip((detected.mean() - CLOSED_DM) / (OPEN_DM - CLOSED_DM), 0, 1)
    change = _smallest_change(points, modes, np.maximum(share * opening, 0) - opening)
    names = list(sizes.groups)
    start = sum(sizes.groups[name] for name in names[: names.index("expression")])
    closed = vector.copy()
    closed[start : start + len(change)] += change
    return closed


def _gaps(points: np.ndarray) -> np.ndarray:
    """Heights (3,) in dm of the gap between the inner lips of unposed landmarks (68,3)."""
    return points[UPPER, 1] - points[LOWER, 1]


def _detected_gaps(
    shape: np.ndarray, rotation: np.ndarray, translation: np.ndarray, crop: Crop, points_px: np.ndarray
) -> np.ndarray:
    """Heights (3,) in dm of the gaps between detected lips, measured along the head's vertical axis in the image."""
    depth = CAMERA_DM - (shape @ np.asarray(rotation, np.float64).T + translation)[UPPER, 2]
    up = (FOCAL_PX / depth)[:, None] * np.asarray(rotation, np.float64)[:2, 1]
    landmarks = crop.with_size(REFERENCE_SIZE).to_crop(points_px)
    return ((landmarks[UPPER] - landmarks[LOWER]) * up).sum(1) / np.maximum((up**2).sum(1), 1e-9)


def _smallest_change(points: np.ndarray, modes: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The change (E,) of expression coefficients that changes the gaps by `change` (3,) dm and moves the rest least.

    points: (68,3) of the mean face; modes: (E,68,3).
    """
    constraint = (modes[:, UPPER, 1] - modes[:, LOWER, 1]).T
    mouth = points[UPPER + LOWER].mean(0)
    held = modes[:, np.linalg.norm(points - mouth, axis=1) > MOUTH_DM].reshape(len(modes), -1)
    stiffness = np.eye(len(modes)) + held @ held.T / HELD_STD_DM**2
    response = np.linalg.solve(stiffness, constraint.T)
    # Slightly soft: modes that hardly move the lips are not driven to extremes.
    system = constraint @ response
    softness = 1e-3 * np.trace(system) / len(system) * np.eye(len(system))
    return response @ np.linalg.solve(system + softness + 1e-12 * np.eye(len(system)), change)
