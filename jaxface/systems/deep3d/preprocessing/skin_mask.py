"""Skin probability of pixels: the posterior of two Gaussian mixtures in YCbCr, skin and background.

Source: Deep3DFaceRecon_pytorch, util/skin_mask.py, with its constants. `losses.skin_attention` turns the posterior into
weights of the photometric loss.
"""

import dataclasses

import numpy as np

PRIOR_SKIN = 0.8


@dataclasses.dataclass(frozen=True)
class _GaussianMixture:
    """A mixture of four Gaussians over (Y, Cb, Cr).

    Attributes:
        weights: (4,).
        means: (4,3).
        determinants: (4,) of the covariances.
        inverses: (4,6) inverse covariances as yy, yb, yr, bb, br, rr.
    """

    weights: tuple
    means: tuple
    determinants: tuple
    inverses: tuple

    def density(self, ycbcr: np.ndarray) -> np.ndarray:
        """The density (N,) of colours (N,3)."""
        total = np.zeros(len(ycbcr))
        components = zip(self.weights, self.means, self.determinants, self.inverses, strict=True)
        for weight, mean, determinant, (yy, yb, yr, bb, br, rr) in components:
            y, b, r = (ycbcr - mean).T
            mahalanobis = yy * y * y + bb * b * b + rr * r * r + 2 * (yb * y * b + yr * y * r + br * b * r)
            total += weight / ((2 * np.pi) ** 1.5 * np.sqrt(determinant)) * np.exp(-0.5 * mahalanobis)
        return total


_SKIN = _GaussianMixture(
    (0.24063933, 0.16365987, 0.26034665, 0.33535415),
    (
        (113.71862, 103.39613, 164.08226),
        (150.19858, 105.18467, 155.51428),
        (183.92976, 107.62468, 152.71820),
        (114.90524, 113.59782, 151.38217),
    ),
    (5692842.5, 5851930.5, 2329131.0, 1585971.0),
    (
        (0.0019472069, 0.0020450759, -0.00060243998, 0.017700525, 0.0051420014, 0.0081308950),
        (0.0027110141, 0.0011036990, 0.0023122299, 0.010707724, 0.010742856, 0.017481629),
        (0.0048026871, 0.00022935172, 0.0077668377, 0.011729696, 0.0081661865, 0.025374353),
        (0.0011989699, 0.0022453172, -0.0010748957, 0.047758564, 0.020332102, 0.024502251),
    ),
)
_BACKGROUND = _GaussianMixture(
    (0.12791070, 0.31130761, 0.34245777, 0.21832393),
    (
        (99.200851, 112.07533, 140.20602),
        (110.91392, 125.52969, 130.19237),
        (129.75864, 129.96107, 126.96808),
        (112.29587, 128.85121, 129.05431),
    ),
    (458703648.0, 6466488.0, 90611376.0, 133097.63),
    (
        (0.00085371657, 0.00071197288, 0.00023958916, 0.0025935620, 0.00076557708, 0.0015042332),
        (0.00024650150, 0.00045542428, 0.00015019422, 0.026412144, 0.018419769, 0.037497383),
        (0.00037054974, 0.00038146760, 0.00040408765, 0.0085505722, 0.0079136286, 0.010982352),
        (0.00013709733, 0.00051228428, 0.00012777430, 0.28237113, 0.10528370, 0.23468947),
    ),
)
# BT.601, studio swing: Y, Cb, Cr of RGB in 0..255.
_TO_YCBCR = np.array([(65.481, 128.553, 24.966), (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214)]) / 255
_OFFSET = np.array([16.0, 128.0, 128.0])


def probability(image: np.ndarray) -> np.ndarray:
    """The posterior probability of skin (…) uint8, 255 = 1, of RGB colours (…,3) in 0..255 of any dtype."""
    colors = np.asarray(image, np.float64).reshape(-1, 3)
    ycbcr = colors @ _TO_YCBCR.T + _OFFSET
    skin, background = PRIOR_SKIN * _SKIN.density(ycbcr), (1 - PRIOR_SKIN) * _BACKGROUND.density(ycbcr)
    return np.round(255 * skin / (skin + background)).astype(np.uint8).reshape(image.shape[:-1])
