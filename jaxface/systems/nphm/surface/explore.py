"""Exploration of the latent space: principal directions, random identities, interpolation, expression transfer."""

import colorsys
import dataclasses
import functools

import numpy as np
import scipy.spatial

from jaxface.errors import UserError
from jaxface.meshes import Mesh
from jaxface.systems.nphm.networks.ensemble import Ensemble
from jaxface.systems.nphm.surface.head_model import HeadModel

# Random identities have this share of the standard deviation of the training codes (official sampling code).
SAMPLE_STD = 0.85
SKIN_COLOR = (0.80, 0.66, 0.58)
# Hues a golden ratio apart (mod 1) are well separated for any number of regions.
GOLDEN_RATIO = 0.618
SATURATION, VALUE = 0.45, 0.9


@dataclasses.dataclass(frozen=True)
class LatentSpace:
    """Statistics of training codes (N,D)."""

    codes: np.ndarray

    @functools.cached_property
    def mean(self) -> np.ndarray:
        """The mean code (D,)."""
        return self.codes.mean(0)

    @functools.cached_property
    def directions(self) -> np.ndarray:
        """Principal directions (K,D), each as long as its standard deviation, the longest first; K is at most N - 1."""
        _, singular_values, axes = np.linalg.svd(self.codes - self.mean, full_matrices=False)
        count = max(len(self.codes) - 1, 1)
        return (axes * (singular_values / count**0.5)[:, None])[:count]

    def moved(self, code: np.ndarray, amounts: tuple[float, ...]) -> np.ndarray:
        """`code` (D,) moved along the first principal directions by `amounts`, in standard deviations."""
        return code + np.float32(amounts) @ self.directions[: len(amounts)]

    def sample(self, seed: int) -> np.ndarray:
        """A random code (D,): independent Gaussians with the training codes' mean and SAMPLE_STD of their deviation."""
        noise = np.random.default_rng(seed).standard_normal(self.codes.shape[1])
        return (self.mean + SAMPLE_STD * self.codes.std(0) * noise).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class ViewState:
    """The head to show.

    Attributes:
        person: row of the identity codes, -1 for the mean.
        other: row of a second identity code, -1 for the mean.
        between: interpolation weight, from `person` (0) to `other` (1).
        sample: seed of a random identity that replaces `person`, -1 for none.
        identity: steps along the principal directions of the identity codes, in standard deviations.
        scan: row of the expression codes, -1 for the neutral expression.
        expression: steps along the principal directions of the expression codes.
        regions: whether to colour vertices by their closest anchor.
        resolution: grid points along each side of the extraction box.
    """

    person: int = -1
    other: int = -1
    between: float = 0.0
    sample: int = -1
    identity: tuple[float, ...] = ()
    scan: int = -1
    expression: tuple[float, ...] = ()
    regions: bool = False
    resolution: int = 96


class Explorer:
    """Meshes of a trained head for view states. UserError if the head has no training codes."""

    def __init__(self, head: HeadModel):
        if head.identity_codes is None:
            raise UserError(
                "the model has no training codes, so people cannot be shown; use the workdir of a training run"
            )
        self.head = head
        self.people = LatentSpace(head.identity_codes)
        self.scans = None if head.expression_codes is None else LatentSpace(head.expression_codes)
        self._neutral: tuple[tuple, Mesh] | None = None

    def identity_code(self, view: ViewState) -> np.ndarray:
        """The identity code (D,) of a view state."""
        person, other = (self.people.mean if row < 0 else self.people.codes[row] for row in (view.person, view.other))
        if view.sample >= 0:
            person = self.people.sample(view.sample)
        return self.people.moved((1 - view.between) * person + view.between * other, view.identity)

    def anchors(self, view: ViewState) -> np.ndarray:
        """The anchors (A,3) of a view state's identity in canonical space, in model units."""
        return self.head.anchors(self.identity_code(view))

    def mesh(self, view: ViewState) -> Mesh:
        """The mesh of a view state in model units. The last neutral mesh is cached: a new expression only deforms."""
        code = self.identity_code(view)
        key = (code.tobytes(), view.resolution)
        if self._neutral is None or self._neutral[0] != key:
            self._neutral = key, self.head.neutral_mesh(code, view.resolution)
        neutral = self._neutral[1]
        colors = self._colors(neutral, view)
        if self.scans is None or (view.scan < 0 and not any(view.expression)):
            return dataclasses.replace(neutral, colors=colors)
        start = np.zeros_like(self.scans.mean) if view.scan < 0 else self.scans.codes[view.scan]
        posed = self.head.pose(neutral, code, self.scans.moved(start, view.expression))
        return dataclasses.replace(posed, colors=colors)

    def _colors(self, neutral: Mesh, view: ViewState) -> np.ndarray:
        if not view.regions or not self.head.identity.anchor_count:
            return np.broadcast_to(np.float32(SKIN_COLOR), neutral.vertices.shape)
        closest = scipy.spatial.cKDTree(self.anchors(view)).query(neutral.vertices)[1]
        return palette(self.head.identity)[closest]


def palette(identity: Ensemble) -> np.ndarray:
    """A colour (A,3) for each anchor; mirrored anchors share theirs."""
    index = np.arange(identity.anchor_count)
    region = np.where(index < 2 * identity.pairs, index // 2, index)
    return np.float32([colorsys.hsv_to_rgb(GOLDEN_RATIO * number % 1, SATURATION, VALUE) for number in region])
