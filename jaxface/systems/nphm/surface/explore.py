"""Heads out of a trained model's codes: leading directions, random people, in-betweens, borrowed expressions."""

import colorsys
import dataclasses
import functools

import jax
import ml_collections
import numpy as np
import scipy.spatial

from jaxface.errors import UserError
from jaxface.meshes import Mesh
from jaxface.system import Tree
from jaxface.systems.nphm import model
from jaxface.systems.nphm.networks.deformation import Deformation
from jaxface.systems.nphm.networks.ensemble import Ensemble
from jaxface.systems.nphm.networks.npm import Single
from jaxface.systems.nphm.surface import extract

# Random people are drawn a little closer to the mean than the training codes lie (official sampling code).
SAMPLE_SPREAD = 0.85
SKIN = (0.80, 0.66, 0.58)
GOLDEN = 0.618


@dataclasses.dataclass(frozen=True)
class Codes:
    """Training codes (N,D) as mean (D,) and leading directions (K,D), each as long as its standard deviation."""

    table: np.ndarray

    @functools.cached_property
    def mean(self) -> np.ndarray:
        """The mean code (D,)."""
        return self.table.mean(0)

    @functools.cached_property
    def directions(self) -> np.ndarray:
        """Directions (K,D), the longest first, K at most N - 1."""
        _, spread, axes = np.linalg.svd(self.table - self.mean, full_matrices=False)
        return (axes * (spread / max(len(self.table) - 1, 1) ** 0.5)[:, None])[: max(len(self.table) - 1, 1)]

    def moved(self, code: np.ndarray, amounts: tuple[float, ...]) -> np.ndarray:
        """`code` (D,) moved along the leading directions, in standard deviations."""
        return code + np.float32(amounts) @ self.directions[: len(amounts)]

    def sample(self, seed: int) -> np.ndarray:
        """A random code (D,): each number with the mean and SAMPLE_SPREAD of the deviation of the training codes."""
        draw = np.random.default_rng(seed).standard_normal(self.table.shape[1])
        return (self.mean + SAMPLE_SPREAD * self.table.std(0) * draw).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Wish:
    """A head to show. person and other: rows of the identity codes, -1 for the mean; between: from the one (0) to the
    other (1); sample: a seed of a random person instead, -1 for none; scan: row of the expression codes, -1 at rest;
    identity and expression: steps along the leading directions; regions: coloured by whose anchor is nearest."""

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
    """A trained head: networks, their parameters by phase, and the codes of people and scans (None without)."""

    def __init__(
        self,
        identity: Ensemble | Single,
        deformation: Deformation | None,
        params: Tree,
        people: Codes,
        scans: Codes | None,
    ):
        self.identity, self.deformation, self.params = identity, deformation, params
        self.people, self.scans = people, scans
        self._rest: tuple[tuple, Mesh] | None = None

    def code(self, wish: Wish) -> np.ndarray:
        """The identity code (D,) of a wish."""
        rows = [self.people.mean if row < 0 else self.people.table[row] for row in (wish.person, wish.other)]
        first = rows[0] if wish.sample < 0 else self.people.sample(wish.sample)
        return self.people.moved((1 - wish.between) * first + wish.between * rows[1], wish.identity)

    def anchors(self, wish: Wish) -> np.ndarray:
        """The anchors (A,3) of a wish's identity, at rest, in units."""
        return np.asarray(_anchors(self.identity, self.params["identity"], self.code(wish)[None]))[0]

    def show(self, wish: Wish) -> Mesh:
        """The mesh of a wish, in units; only a new identity is extracted anew."""
        code = self.code(wish)
        key = (code.tobytes(), wish.resolution)
        if self._rest is None or self._rest[0] != key:
            self._rest = key, extract.mesh(self.identity, self.params["identity"], code, wish.resolution)
        rest = self._rest[1]
        colors = self._colors(rest, wish)
        if self.deformation is None or self.scans is None or (wish.scan < 0 and not any(wish.expression)):
            return dataclasses.replace(rest, colors=colors)
        start = np.zeros_like(self.scans.mean) if wish.scan < 0 else self.scans.table[wish.scan]
        expression = self.scans.moved(start, wish.expression)
        networks, phase = (self.identity, self.deformation), (self.params["identity"], self.params["expression"])
        condition = _condition(networks, *phase, code[None])[0]
        posed = extract.pose(self.deformation, self.params["expression"], condition, expression, rest)
        return dataclasses.replace(posed, colors=colors)

    def _colors(self, rest: Mesh, wish: Wish) -> np.ndarray:
        if not wish.regions or not self.identity.anchor_count:
            return np.broadcast_to(np.float32(SKIN), rest.vertices.shape)
        nearest = scipy.spatial.cKDTree(self.anchors(wish)).query(rest.vertices)[1]
        return palette(self.identity)[nearest]


def palette(identity: Ensemble) -> np.ndarray:
    """A colour (A,3) for each anchor; mirrored ones share theirs."""
    number = np.arange(identity.anchor_count)
    number = np.where(number < 2 * identity.pairs, number // 2, number)
    return np.float32([colorsys.hsv_to_rgb(GOLDEN * own % 1, 0.45, 0.9) for own in number])


def load(config: ml_collections.ConfigDict, params: Tree) -> Explorer:
    """The explorer of a trained workdir of either phase: its configuration and parameters.

    UserError where the workdir holds no codes of training, as people and directions come from them.
    """
    if config.phase == "identity":
        return Explorer(model.identity_model(config), None, params, _codes(params), None)
    earlier = model.earlier_config(config)
    identity, before = model.identity_model(earlier), model.earlier_params(config, earlier)
    both = {"identity": before["identity"], "expression": params["expression"]}
    return Explorer(identity, model.expression_model(config, identity), both, _codes(before), _codes(params))


def _codes(params: Tree) -> Codes:
    if "codes" not in params:
        raise UserError("this model came without the codes of its training, which people and directions come from")
    return Codes(np.asarray(params["codes"]))


_anchors = jax.jit(lambda model, *arguments: model.anchors(*arguments), static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _condition(networks: tuple, identity: Tree, expression: Tree, code: jax.Array) -> jax.Array:
    return networks[1].condition(expression, code, networks[0].anchors(identity, code))
