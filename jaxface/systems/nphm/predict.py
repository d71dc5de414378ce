"""Fitting: scans of people in, their codes, head meshes and errors out."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxface.errors import UserError
from jaxface.geometry.alignment import Similarity
from jaxface.meshes import Mesh
from jaxface.system import Tree
from jaxface.systems.nphm import model
from jaxface.systems.nphm.fitting import inversion, scans
from jaxface.systems.nphm.metrics import MM_PER_UNIT
from jaxface.systems.nphm.model import Identity
from jaxface.systems.nphm.networks.deformation import Deformation
from jaxface.systems.nphm.surface import extract

# The reference's members with hardly any data of their own: two at the neck, and the background.
LOOSE = (30, 31, 39)
STATISTIC_POINTS = 2000


@dataclasses.dataclass(frozen=True)
class Fit:
    """One fitted scan: its mesh in the scan's own frame and unit, the map to the model, errors in mm by name."""

    mesh: Mesh
    similarity: Similarity
    errors: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Person:
    """Codes of a person, identity (D,) and expressions (K,E), and the fit of each of the K scans."""

    identity: np.ndarray
    expressions: np.ndarray
    fits: list[Fit]


@dataclasses.dataclass(frozen=True)
class Head:
    """A trained head to fit with: networks, their parameters {"identity", "expression"}, the keys of `config.fit`.

    Those are `steps`, `points` (of all of a person's scans in a step), `resolution` of the meshes and `method` of the
    backward warp.
    """

    identity: Identity
    deformation: Deformation | None
    params: Tree
    config: ml_collections.ConfigDict

    @functools.cached_property
    def mean(self) -> Mesh:
        """The head of the all-zero code, in model units."""
        return extract.mesh(self.identity, self.params["identity"], jnp.zeros(self.identity.code), 64)

    @property
    def mean_anchors(self) -> np.ndarray:
        """Anchors (A,3) of the all-zero code, in model units."""
        return np.asarray(self.identity.anchors(self.params["identity"], jnp.zeros((1, self.identity.code))))[0]

    def lay(self, points: np.ndarray, name: str, units: str | None = None, align: str = "auto") -> Similarity:
        """The map from a scan's frame to the model's; `units` None: found from the size, else checked by it.

        align: "auto" finds the pose, "none" takes the scan's frame for FLAME's, anything else is a file
        (`scans.given`), which says the size as well. UserError where none can be.
        """
        if align not in ("auto", "none"):
            return scans.given(align, self.mean_anchors)
        unit = scans.unit_of(points, name, units)
        if align == "none":
            return Similarity(scans.UNITS[unit], np.eye(3), np.zeros(3))
        return scans.found(points, unit, self.mean.vertices)

    def fit(self, people: Sequence[Sequence[np.ndarray]], laid: Sequence[Sequence[Similarity]]) -> list[Person]:
        """People, each a list of scans (N,3) in their own frames with their similarities, fitted together.

        The pose found beforehand is refined with the codes. People of one number of scans are one batch.
        """
        fitter = inversion.Fitter(self.identity, self.deformation, self._loose(), self.config.method)
        made: dict[int, Person] = {}
        for count in sorted({len(one) for one in people}):
            group = [number for number, one in enumerate(people) if len(one) == count]
            clouds = [[np.float32(lay(cloud)) for cloud, lay in zip(people[n], laid[n], strict=True)] for n in group]
            codes = _fit_group(fitter, self.params, clouds, self.config)
            for place, number in enumerate(group):
                own = jax.tree.map(lambda leaf, place=place: leaf[place], codes)
                made[number] = self._person(fitter, own, clouds[place], laid[number])
        return [made[number] for number in range(len(people))]

    def _loose(self) -> tuple[int, ...]:
        return LOOSE if self.identity.anchor_count == max(LOOSE) else ()

    def _person(self, fitter: inversion.Fitter, codes: inversion.Codes, clouds: list, laid: Sequence) -> Person:
        neutral = extract.mesh(self.identity, self.params["identity"], codes.identity, self.config.resolution)
        fits = []
        for row, (cloud, similarity) in enumerate(zip(clouds, laid, strict=True)):
            moved = _posed(similarity, codes.poses[row])
            mesh = neutral
            if self.deformation is not None:
                identity = codes.identity[None]
                anchors = self.identity.anchors(self.params["identity"], identity)
                condition = self.deformation.condition(self.params["expression"], identity, anchors)[0]
                mesh = extract.pose(
                    self.deformation, self.params["expression"], condition, codes.expressions[row], neutral
                )
            errors = _errors(fitter, self.params, codes, row, cloud)
            fits.append(
                Fit(dataclasses.replace(mesh, vertices=np.float32(moved.inverse(mesh.vertices))), moved, errors)
            )
        return Person(np.asarray(codes.identity), np.asarray(codes.expressions), fits)


def head(config: ml_collections.ConfigDict, params: Tree) -> Head:
    """The head of a workdir of either phase: its configuration and parameters."""
    if config.phase == "identity":
        return Head(model.identity_model(config), None, params, config.fit)
    earlier = model.earlier_config(config)
    identity = model.identity_model(earlier)
    params = {**params, "identity": model.earlier_params(config, earlier)["identity"]}
    return Head(identity, model.expression_model(config, identity), params, config.fit)


def bind(config: ml_collections.ConfigDict) -> Callable[..., Person]:
    """`System.predict`: scans of one person in, each (N,3) points or a Mesh; a `Person` out.

    Options: `units` and `align` as in `Head.lay`. Given a picture it says by a UserError what to do instead.
    """

    def predict(params: Tree, model_state: Tree, source: Any, **options: Any) -> Person:
        del model_state
        listed = source if isinstance(source, list) else [source]
        meshes = [one if isinstance(one, Mesh) else _as_mesh(one) for one in listed]
        if options.pop("boxes", None) is not None or set(options) - {"units", "align"}:
            raise UserError(
                "nphm fits scans and knows the options units and align; use python -m launch.fit --scan FILE"
            )
        fitted = head(config, params)
        clouds = [scans.points_of(mesh, f"scan {number}") for number, mesh in enumerate(meshes)]
        laid = [fitted.lay(cloud, f"scan {number}", **options) for number, cloud in enumerate(clouds)]
        return fitted.fit([clouds], [laid])[0]

    return predict


def _as_mesh(points: Any) -> Mesh:
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != 3:
        raise UserError(f"nphm fits scans, points (N,3), not {points.shape}: use python -m launch.fit --scan FILE")
    if not np.isfinite(points).all():
        raise UserError("the scan has NaN or infinite points; remove them")
    return Mesh(points.astype(np.float32), np.zeros((0, 3), np.int32))


def _fit_group(fitter: inversion.Fitter, params: Tree, clouds: list, config: ml_collections.ConfigDict):
    """Codes with a leading axis of people."""
    longest = max(len(cloud) for one in clouds for cloud in one)
    padded = np.stack([[np.resize(cloud, (longest, 3)) for cloud in one] for one in clouds])
    counts = np.array([[len(cloud) for cloud in one] for one in clouds], np.int32)
    keys = jax.random.split(jax.random.key(0), len(clouds))
    per_scan = max(config.points // padded.shape[1], 1)
    run = functools.partial(fitter.fit, steps=config.steps, per_step=per_scan)
    with jax.default_matmul_precision("highest"):
        return jax.jit(jax.vmap(run, (None, 0, 0, 0)))(params, padded, counts, keys)[0]


def _posed(similarity: Similarity, pose: np.ndarray) -> Similarity:
    rotation = np.asarray(inversion.rotation(pose[:3]), np.float64)
    return Similarity(
        similarity.scale,
        rotation @ similarity.rotation,
        rotation @ similarity.translation + np.asarray(pose[3:], np.float64),
    )


def _errors(fitter: inversion.Fitter, params: Tree, codes: inversion.Codes, row: int, cloud: np.ndarray) -> dict:
    """Distances in mm of a scan's points to the fitted surface, as the model's field measures them."""
    chosen = cloud[np.random.default_rng(0).permutation(len(cloud))[:STATISTIC_POINTS]]
    distance, valid = _distances(fitter, params, codes, np.array([row]), chosen[None])
    distance_mm = MM_PER_UNIT * np.abs(np.asarray(distance))[np.asarray(valid)]
    if not len(distance_mm):
        raise UserError("no point of a scan finds its place on the head; is it one? Try --units or --align FILE")
    return {
        "mean": float(distance_mm.mean()),
        "median": float(np.median(distance_mm)),
        "p90": float(np.percentile(distance_mm, 90)),
        "counted": float(np.mean(valid)),
    }


@functools.partial(jax.jit, static_argnums=0)
def _distances(fitter: inversion.Fitter, params: Tree, codes: inversion.Codes, rows: jax.Array, points: jax.Array):
    found, valid = fitter.canonical(params, codes, rows, points)
    return fitter.identity.sdf(params["identity"], codes.identity[None], found)[0], valid[0]
