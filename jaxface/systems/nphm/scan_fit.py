"""Fits a neural head to scans.

A scan is aligned to the mean head (`align`); then codes and poses of all scans of a person are optimised together
(`fit_people`).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import ml_collections
import numpy as np

from jaxface.errors import UserError
from jaxface.geometry import icp
from jaxface.geometry.alignment import Similarity
from jaxface.heads.head_space import MM_PER_UNIT
from jaxface.meshes import Mesh
from jaxface.results import HeadFit
from jaxface.system import Tree
from jaxface.systems.nphm.fitting import comparison, inversion, scans
from jaxface.systems.nphm.surface.head_model import HeadModel

# Members of the official ensemble with a stronger prior: two at the neck, and the background.
OFFICIAL_UNOBSERVED_MEMBERS = (30, 31, 39)
# Points of a scan at which errors are measured.
ERROR_POINTS = 2000


class AlignedScan(NamedTuple):
    """A scan with its initial pose.

    Attributes:
        name: the scan in messages.
        points: (N,3), in the scan's frame and unit.
        similarity: from the scan to the model.
        unit: the scan's unit, None if a file gave the similarity.
    """

    name: str
    points: np.ndarray
    similarity: Similarity
    unit: str | None


def align(head: HeadModel, points: np.ndarray, name: str, units: str | None = None, align: str = "auto") -> AlignedScan:
    """Determines the unit and initial pose of a scan.

    Args:
        head: the trained head.
        points: (N,3), as from `scans.scan_points`.
        name: the scan in messages.
        units: the scan's unit; None infers it from the extent.
        align: "auto" estimates the pose by ICP; "none": the scan is in the model's frame; otherwise the path of a file
            with the similarity (`scans.load_similarity`), which also determines the scale.

    Raises:
        UserError: the extent is not that of a head, or the file is malformed.
    """
    if align not in ("auto", "none"):
        return AlignedScan(name, points, scans.load_similarity(align, head.mean_anchors), None)
    unit = scans.infer_unit(points, name, units)
    if align == "none":
        return AlignedScan(name, points, Similarity(scans.UNITS[unit], np.eye(3), np.zeros(3)), unit)
    return AlignedScan(name, points, scans.align(points, unit, head.mean_mesh.vertices), unit)


def fit_people(
    head: HeadModel,
    config: ml_collections.ConfigDict,
    people: Sequence[Sequence[AlignedScan]],
    on_failure: Callable[[str, UserError], None] | None = None,
) -> list[list[HeadFit | None]]:
    """Fits identity and expression codes to scans. People with the same number of scans are fitted as one batch.

    Args:
        head: the trained head.
        config: `config.fit`: `steps`, `points` (per step, of all scans of a person), `face_share` (see
            `scans.with_face_share`), `resolution` of the meshes, `method` of the backward deformation and `schedule`
            (see `inversion.Fitter`).
        people: for each person their scans.
        on_failure: called with the name of a scan of which no point reaches the model, and the error; its fit is None.
            Without it the error is raised.

    Returns:
        For each person a fit per scan; fits of one person share the identity code.
    """
    fitter = make_fitter(head, config)
    fits: dict[int, list[HeadFit | None]] = {}
    for scan_count in sorted({len(person) for person in people}):
        batch = [index for index, person in enumerate(people) if len(person) == scan_count]
        clouds = [[np.float32(scan.similarity(scan.points)) for scan in people[index]] for index in batch]
        weighted = [[scans.with_face_share(c, head.mean_anchors, config.face_share) for c in one] for one in clouds]
        variables = _fit_batch(fitter, head.params, weighted, config)
        for row, index in enumerate(batch):
            fitted = jax.tree.map(lambda leaf, row=row: np.asarray(leaf[row]), variables)
            fits[index] = _head_fits(head, fitter, fitted, clouds[row], people[index], config.resolution, on_failure)
    return [fits[index] for index in range(len(people))]


def make_fitter(head: HeadModel, config: ml_collections.ConfigDict) -> inversion.Fitter:
    """The fitter of a head; OFFICIAL_UNOBSERVED_MEMBERS apply to ensembles with the official number of anchors."""
    official = head.identity.anchor_count == max(OFFICIAL_UNOBSERVED_MEMBERS)
    unobserved = OFFICIAL_UNOBSERVED_MEMBERS if official else ()
    return inversion.Fitter(
        head.identity, head.deformation, unobserved, config.method, head.prior_scale, config.schedule
    )


def _fit_batch(
    fitter: inversion.Fitter, params: Tree, clouds: list[list[np.ndarray]], config: ml_collections.ConfigDict
) -> inversion.FitVariables:
    """Fits people with equally many scans as one batch.

    `clouds`: for each person their scans (N,3) in the model's frame. Returns variables with a leading axis of people.
    """
    longest = max(len(cloud) for person in clouds for cloud in person)
    padded = np.stack([[np.resize(cloud, (longest, 3)) for cloud in person] for person in clouds])
    counts = np.array([[len(cloud) for cloud in person] for person in clouds], np.int32)
    keys = jax.random.split(jax.random.key(0), len(clouds))
    points_per_scan = max(config.points // padded.shape[1], 1)
    fit = functools.partial(fitter.fit, steps=config.steps, points_per_scan=points_per_scan)
    with jax.default_matmul_precision("highest"):
        return jax.jit(jax.vmap(fit, (None, 0, 0, 0)))(params, padded, counts, keys)[0]


def _head_fits(
    head: HeadModel,
    fitter: inversion.Fitter,
    variables: inversion.FitVariables,
    clouds: list[np.ndarray],
    person: Sequence[AlignedScan],
    resolution: int,
    on_failure: Callable[[str, UserError], None] | None,
) -> list[HeadFit | None]:
    """Results of one person from the fitted `variables` (numpy); `clouds` are the scans in the model's frame."""
    neutral = head.neutral_mesh(variables.identity, resolution)
    fits: list[HeadFit | None] = []
    for row, (cloud, scan) in enumerate(zip(clouds, person, strict=True)):
        try:
            fits.append(head_fit(head, fitter, neutral, variables, row, cloud, scan))
        except UserError as error:
            if on_failure is None:
                raise
            on_failure(scan.name, error)
            fits.append(None)
    return fits


def head_fit(
    head: HeadModel,
    fitter: inversion.Fitter,
    neutral: Mesh,
    variables: inversion.FitVariables,
    row: int,
    cloud: np.ndarray,
    scan: AlignedScan,
) -> HeadFit:
    """The result of scan number `row` of one person.

    Args:
        head: the trained head.
        fitter: that of `make_fitter`.
        neutral: the person's mesh in canonical space, in model units.
        variables: the person's fitted variables (numpy).
        row: the number of the scan in `variables`.
        cloud: the scan (N,3) in the model's frame, before its pose was refined.
        scan: the scan.

    Raises:
        UserError: no point of the scan converged to the model's surface.
    """
    errors_mm = _errors_mm(fitter, head.params, variables, row, cloud, scan.name)
    expression = variables.expressions[row]
    similarity = _refined_pose(scan.similarity, variables.poses[row])
    posed = head.pose(neutral, variables.identity, expression)
    # Double precision: the scan's origin may be far away.
    mesh = dataclasses.replace(posed, vertices=similarity.inverse(np.float64(posed.vertices)))
    return HeadFit(
        mesh=mesh,
        identity=variables.identity,
        expression=expression,
        similarity=similarity,
        unit=scan.unit,
        errors_mm=errors_mm,
        scan=scan.points,
        draw=functools.partial(comparison.draw_comparison, scan.points, mesh, similarity),
    )


def _refined_pose(initial: Similarity, pose: np.ndarray) -> Similarity:
    """The initial similarity followed by the fitted pose (6,), a rotation vector and a translation."""
    rotation = np.asarray(inversion.rotation(pose[:3]), np.float64)
    return icp.compose(Similarity(1.0, rotation, np.asarray(pose[3:], np.float64)), initial)


def _errors_mm(
    fitter: inversion.Fitter, params: Tree, variables: inversion.FitVariables, row: int, cloud: np.ndarray, name: str
) -> dict[str, float]:
    """`HeadFit.errors_mm` of scan number `row`: |SDF| at the canonical positions of its points."""
    points = cloud[np.random.default_rng(0).permutation(len(cloud))[:ERROR_POINTS]]
    distance, valid = _distances(fitter, params, variables, np.array([row]), points[None])
    distance_mm = MM_PER_UNIT * np.abs(np.asarray(distance))[np.asarray(valid)]
    if not len(distance_mm):
        raise UserError(f"{name}: no scan point converged to the model surface; check --units and --align")
    return {
        "mean": float(distance_mm.mean()),
        "median": float(np.median(distance_mm)),
        "p90": float(np.percentile(distance_mm, 90)),
        "counted": float(np.mean(valid)),
    }


@functools.partial(jax.jit, static_argnums=0)
def _distances(
    fitter: inversion.Fitter, params: Tree, variables: inversion.FitVariables, row: jax.Array, points: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(SDF (N,) in model units, converged (N,) bool) at points (1,N,3) of the scan `row` (1,)."""
    canonical, converged = fitter.canonical(params, variables, row, points)
    return fitter.identity.sdf(params["identity"], variables.identity[None], canonical)[0], converged[0]
