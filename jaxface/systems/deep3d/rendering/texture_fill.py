"""Completes the texture of a head where the photo does not show it, from its other half and by diffusion.

Skin and hair are completed each from its own visible part, so that the back of the head has the colour of the hair and
not that of the forehead. Neck and shoulders take the colour of the skin, because clothes cover them in photos. The
inside of the mouth and of the eyelids has the colours of the model.
"""

import cv2
import numpy as np

from jaxface.systems.deep3d.face_model import COVERED, INTERIOR, SCALP, SKIN

# Regions that are completed together: the regions whose photo is used, and those that are filled.
GROUPS = (((SKIN,), (SKIN, COVERED)), ((SCALP,), (SCALP,)))
# Factor between the sides of the texture and of the field of gains between its halves, and bound of their logarithm.
GAIN_STEP, MAX_LOG_GAIN = 16, 0.7
# A group of which less than this share of the texture is visible keeps the colours of the model.
MIN_VISIBLE = 1e-4


def complete(
    photo: np.ndarray, weight: np.ndarray, model: np.ndarray, region: np.ndarray, mirrored: np.ndarray
) -> np.ndarray:
    """The completed texture (S,S,3) float32; S is a power of two.

    Args:
        photo: (S,S,3) float32, colours sampled from the photo.
        weight: (S,S) in [0,1], 0 where the photo does not show the surface.
        model: (S,S,3) float32, lit colours of the model.
        region: (S,S) int8, codes of `FaceModel.texture_region`.
        mirrored: (S,) columns of the texture that show the mirror image of each column, -1: none.
    """
    blend = weight[..., None]
    result = np.where((region == INTERIOR)[..., None], blend * photo + (1 - blend) * model, model)
    for sources, filled in GROUPS:
        visible = weight * np.isin(region, sources)
        if visible.mean() < MIN_VISIBLE:
            continue
        colors, known = _with_mirror_image(photo, visible, mirrored)
        colors = known[..., None] * colors + (1 - known[..., None]) * diffuse(colors, known)
        inside = np.isin(region, filled)
        result[inside] = colors[inside]
    return result


def _with_mirror_image(photo: np.ndarray, weight: np.ndarray, mirrored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours (S,S,3) and weights (S,S) of the photo, and of its mirror image where the photo has a smaller weight.

    The mirror image is lit as the other half is: it is multiplied by the gain between the halves, which is known where
    both are visible.
    """
    other = photo[:, mirrored]
    other_weight = weight[:, mirrored] * (mirrored >= 0)
    other = np.clip(other * _gain(photo, weight, other, other_weight), 0, 255)
    added = (1 - weight) * other_weight
    known = weight + added
    colors = (weight[..., None] * photo + added[..., None] * other) / np.maximum(known, 1e-6)[..., None]
    return colors, known


def _gain(photo: np.ndarray, weight: np.ndarray, other: np.ndarray, other_weight: np.ndarray) -> np.ndarray:
    """The smooth factor (S,S,3) by which `photo` is brighter than `other`."""
    side = len(photo)
    small = (max(1, side // GAIN_STEP),) * 2
    both = weight * other_weight
    share = cv2.resize(both, small, interpolation=cv2.INTER_AREA)
    means = [
        cv2.resize(both[..., None] * colors, small, interpolation=cv2.INTER_AREA) / np.maximum(share, 1e-6)[..., None]
        for colors in (photo, other)
    ]
    log_gain = np.log((means[0] + 1) / (means[1] + 1))
    log_gain = np.clip(diffuse(log_gain, np.minimum(1, 4 * share)), -MAX_LOG_GAIN, MAX_LOG_GAIN)
    return np.exp(cv2.resize(log_gain, (side, side), interpolation=cv2.INTER_LINEAR))


def diffuse(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Values (S,S,C) continued smoothly to where `weight` (S,S) in [0,1] is small; S is a power of two.

    Pull-push interpolation: Gortler et al., The Lumigraph, SIGGRAPH 1996.
    """
    side = len(values)
    if side == 1:
        return values * (weight[..., None] > 0)
    half = (side // 2, side // 2)
    coarse_weight = cv2.resize(weight, half, interpolation=cv2.INTER_AREA)
    coarse = cv2.resize(weight[..., None] * values, half, interpolation=cv2.INTER_AREA)
    coarse = coarse.reshape(*half, -1) / np.maximum(coarse_weight, 1e-9)[..., None]
    coarse = diffuse(coarse, np.minimum(1, 4 * coarse_weight))
    continued = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_LINEAR).reshape(values.shape)
    return weight[..., None] * values + (1 - weight[..., None]) * continued
