"""A face of a picture as Deep3D is trained on it: the aligned crop, its 68 landmarks and where it shows skin."""

import numpy as np

from jaxface.systems.deep3d.preprocessing import alignment, skin_mask


def aligned_face(pixels: np.ndarray, points_px: np.ndarray, size: int, with_skin: bool = True) -> dict[str, np.ndarray]:
    """The training example of a face with 68 points (68,2) px, y down, in a picture (H,W,3) uint8.

    image (size,size,3) uint8 and, if it is asked for, skin (size,size) uint8, 255 = certain. Whatever `size` is:
    landmarks (68,2) float32 in pixels of the crop at 224 px, y up from its last row, and crop (5,) float32, its
    `alignment.Crop.parameters`.
    UserError: points that make no face.
    """
    height, width = pixels.shape[:2]
    crop = alignment.align(points_px, width, height, size)
    reference = crop.at(alignment.REFERENCE_SIZE)
    return {
        "image": crop.cut(pixels),
        "landmarks": reference.landmarks(points_px).astype(np.float32),
        "crop": reference.parameters.astype(np.float32),
        **({"skin": skin_mask.crop_probability(pixels, crop)} if with_skin else {}),
    }
