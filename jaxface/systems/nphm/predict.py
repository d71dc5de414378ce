"""`System.predict` of NPHM: scans of one person in, fitted heads out."""

from collections.abc import Callable
from typing import Any

import ml_collections
import numpy as np

from jaxface.errors import UserError
from jaxface.meshes import Mesh
from jaxface.results import HeadFit
from jaxface.system import Tree
from jaxface.systems.nphm import scan_fit, sequence
from jaxface.systems.nphm.fitting import scans
from jaxface.systems.nphm.sequence import Frame
from jaxface.systems.nphm.surface import head_model


def bind(config: ml_collections.ConfigDict) -> Callable[..., list[HeadFit]]:
    """`System.predict` of a configuration: the scans of one person in, a `HeadFit` for each out.

    A scan is an array of points (N,3) or a Mesh; several are given as a list. Options: `units` and `align` as for
    `scan_fit.align`; `sequence`, whether the scans are frames in time, see `sequence.fit_sequence`. UserError for an
    image or another option.
    """

    def predict(params: Tree, model_state: Tree, source: Any, **options: Any) -> list[HeadFit]:
        del model_state
        listed = source if isinstance(source, list) else [source]
        if options.pop("boxes", None) is not None or set(options) - {"units", "align", "sequence"}:
            raise UserError(
                "nphm: fits scans, with the options units, align and sequence; use python -m launch.fit --scan FILE"
            )
        head = head_model.load(config, params)
        in_time, units, align = options.get("sequence", False), options.get("units"), options.get("align", "auto")
        frames = []
        for number, scan in enumerate(listed):
            name = f"scan {number}"
            mesh = scan if isinstance(scan, Mesh) else _as_mesh(scan, name)
            frames.append(Frame(name, scans.scan_points(mesh, name), units, align))
        if in_time:
            return sequence.fit_sequence(head, config.fit, frames, _raise)
        aligned = [scan_fit.align(head, one.points, one.name, one.units, one.align_by) for one in frames]
        return scan_fit.fit_people(head, config.fit, [aligned])[0]

    return predict


def _raise(name: str, error: UserError) -> None:
    del name
    raise error


def _as_mesh(points: Any, name: str) -> Mesh:
    """Points (N,3) as a point cloud. Raises UserError, starting with the scan's `name`, for anything else."""
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != 3:
        raise UserError(f"{name}: an array {points.shape}, but nphm fits scans; pass points (N,3) or a Mesh")
    if not np.isfinite(points).all():
        raise UserError(f"{name}: has NaN or infinite points; remove them")
    return Mesh(points.astype(np.float64), np.zeros((0, 3), np.int32))
