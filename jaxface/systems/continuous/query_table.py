"""Template points of data sets: the layout of a data set, found layouts of a workdir, learned offsets.

A data set's labels are answers to the queries of its layout. Layouts of the package are in `jaxface.layouts`; those of
the user's own folders are found with a trained network (`layout_search`). `config.layouts` stores for each data set
{"name": layout} or {"points": K points, "flip": K indices}, so that a workdir does not depend on its data.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxface import prepared_data
from jaxface.errors import UserError
from jaxface.heads import canonical
from jaxface.layouts import LAYOUTS, MIRROR_X, Layout, mirror_symmetric
from jaxface.system import Tree
from jaxface.systems.continuous.deformer import DEFORMER, Deformer

# Layouts of data sets whose metadata do not name it. Sets of 3D points, and rendered heads, which also have dense
# points with queries of their own.
LAYOUT_OF = {"w300lp": "68", "aflw2000_3d": "68", "jvcr_json": "68", "faw3d": "66", "rendered_heads": "68"}
# Data sets whose labels are exact by construction: their points have no learned offsets.
EXACT = ("rendered_heads", "facescape")
# An evaluator "NAME[:SPLIT]@detector" takes the detector's box instead of the annotated one.
DETECTOR = "@detector"
# The layout of a data set whose points are the user's own.
OWN = "own"
# `config.model.template` of a network that was trained on a template which only its user has.
OTHER_TEMPLATE = "other"
# Name of the learned offsets among the parameters.
OFFSETS = "offsets"
# Batches are padded to the smallest of these numbers of queries, if their data sets have different numbers.
QUERY_WIDTHS = tuple(sorted([2**n for n in range(4, 16)] + [3 * 2**n for n in range(4, 15)]))


@dataclasses.dataclass(frozen=True)
class QuerySet:
    """The queries of one data set.

    Attributes:
        dataset: "NAME[/variant]".
        points: (K,3) float32 template points.
        layout: the layout with its flip map, eye corners and the five points; for the user's own points only `flip`
            is known, which may be empty.
    """

    dataset: str
    points: np.ndarray
    layout: Layout


def dataset_name(name: str) -> str:
    """NAME[/variant] of "NAME[/variant][:SPLIT][@detector]"."""
    return prepared_data.parse_name(name.removesuffix(DETECTOR), "")[0]


def layout_name(dataset: str, data_dir: str) -> str | None:
    """The layout of the prepared data set "NAME[/variant]", OWN for the user's own; None if it is unknown."""
    base = dataset.partition("/")[0]
    if base in LAYOUT_OF:
        return LAYOUT_OF[base]
    if prepared_data.newest_version(dataset, data_dir) is None:
        return None
    return prepared_data.read_metadata(dataset, data_dir).get("layout") or None


def batch_width(widths: Collection[int]) -> int:
    """Number of queries of a batch whose data sets have these numbers."""
    widest, several = max(widths), len(set(widths)) > 1
    return next(width for width in QUERY_WIDTHS if width >= widest) if several else widest


def entry_key(dataset: str) -> str:
    """The key of a data set in `config.layouts`; configurations do not allow dots in keys."""
    return dataset.replace(".", "_")


def query_set(config: ml_collections.ConfigDict, name: str) -> QuerySet:
    """The queries of the data set "NAME[/variant][:SPLIT]" of a configuration.

    Raises UserError if its layout has no template points, or if stored points are malformed.
    """
    dataset = dataset_name(name)
    stored = config.get("layouts", {}).get(entry_key(dataset))
    if stored is not None and "points" in stored:
        return _own_layout(dataset, stored)
    layout = layout_name(dataset, config.data.dir) if stored is None else stored["name"]
    if config.model.template == OTHER_TEMPLATE:
        raise UserError(
            f"data set {dataset}: its layout has no points on the template of this model; set config.model.template to "
            "train on jaxface's template"
        )
    if layout in LAYOUTS:
        points = canonical.in_template(canonical.queries(layout), config.model.template)
        return QuerySet(dataset, points, LAYOUTS[layout])
    if layout is None:
        folder = prepared_data.find(dataset, config.data.dir)
        raise UserError(f"data set {dataset}: {folder} has no landmarks of one layout; name another data set")
    raise UserError(
        f"data set {dataset}: its layout {layout!r} has no template points; set --config.init to a trained model, or "
        f"run: python -m launch.layout --dataset {dataset} --workdir W"
    )


def _own_layout(dataset: str, stored: Mapping[str, Any]) -> QuerySet:
    """The queries of an entry of `config.layouts` that holds points. Raises UserError if it is malformed."""
    points, flip = np.asarray(stored["points"], np.float32), np.asarray(stored["flip"], int)
    if points.ndim != 2 or points.shape[1:] != (3,) or not np.isfinite(points).all():
        raise UserError(f"config.layouts: the points of {dataset} have shape {points.shape}; expected finite (K,3)")
    if len(flip) and sorted(flip) != list(range(len(points))):
        raise UserError(f"config.layouts: {dataset} has {len(points)} points; its flip map must pair each of them")
    return QuerySet(dataset, points, Layout(OWN, flip, None, ()))


def with_layouts(
    config: ml_collections.ConfigDict, search: Callable[[str], Mapping[str, Any]]
) -> ml_collections.ConfigDict:
    """A copy of the configuration whose `layouts` has an entry for every data set that is prepared.

    Args:
        config: the configuration.
        search: data set -> entry with `points` and `flip`, for layouts without template points.
    """
    config = config.copy_and_resolve_references()
    names = [dataset_name(name) for name in (*config.data.datasets, *config.data.evaluate)]
    entries = dict(config.get("layouts", {}))
    for name in dict.fromkeys(names):
        layout = layout_name(name, config.data.dir)
        if entry_key(name) not in entries and layout is not None:
            entries[entry_key(name)] = {"name": layout} if layout in LAYOUTS else search(name)
    with config.unlocked():
        config.layouts = entries
    return config


def offset_key(dataset: str) -> str:
    """The name of a data set's offsets among the parameters."""
    return re.sub(r"\W", "_", dataset)


def offset_sets(config: ml_collections.ConfigDict) -> list[QuerySet]:
    """The data sets of `data.datasets` with learned offsets: all but those that define the convention.

    The reference is rendered data, or without it the first data set: its offsets are pinned to zero.
    """
    if not config.data.get("offsets", False):
        return []
    return [query_set(config, name) for name in learned_names(map(dataset_name, config.data.datasets))]


def learned_names(names: Iterable[str]) -> list[str]:
    """Those of the data sets "NAME[/variant]" whose points are moved to their own convention, without the reference."""
    names = list(dict.fromkeys(names))
    learned = [name for name in names if name.partition("/")[0] not in EXACT]
    pinned = names[:1] if learned == names else []
    return [name for name in learned if name not in pinned]


def zero_offsets(config: ml_collections.ConfigDict) -> dict[str, np.ndarray]:
    """The initial offsets: {key of the data set: zeros (K,3)}."""
    return {offset_key(one.dataset): np.zeros(one.points.shape, np.float32) for one in offset_sets(config)}


def symmetric_offsets(params: Tree, one: QuerySet) -> Any:
    """Offsets (K,3) of a data set, mirror-symmetric where its flip map is known; zeros if none are learned."""
    offsets = params.get(OFFSETS, {}).get(offset_key(one.dataset))
    if offsets is None:
        return np.zeros(one.points.shape, np.float32)
    return mirror_symmetric(offsets, one.layout.flip) if len(one.layout.flip) else offsets


def offset_table(params: Tree, sets: list[QuerySet], names: tuple[str, ...], width: int) -> jax.Array:
    """Offsets (D,width,3) of the data sets `names`, padded with zeros; those that are not in `sets` are zero."""
    by_name = {one.dataset: one for one in sets}
    rows = []
    for name in map(dataset_name, names):
        offsets = symmetric_offsets(params, by_name[name]) if name in by_name else np.zeros((0, 3), np.float32)
        rows.append(jnp.pad(jnp.asarray(offsets), ((0, width - len(offsets)), (0, 0))))
    return jnp.stack(rows)


def moved_queries(queries: jax.Array, offsets: jax.Array, mirrored: jax.Array) -> jax.Array:
    """Queries (B,Q,3) moved by their data sets' offsets (B,Q,3); in `mirrored` (B,) images those are mirrored too."""
    sign = jnp.where(mirrored[:, None, None], jnp.asarray(MIRROR_X, jnp.float32), 1.0)
    return queries + offsets * sign


def deformer_of(config: ml_collections.ConfigDict) -> Deformer | None:
    """The deformer of a configuration; None if it has none, or if no data set would move."""
    if not config.data.deformer:
        return None
    names = tuple(map(dataset_name, config.data.datasets))
    moving = set(learned_names(names))
    return Deformer(names, tuple(name in moving for name in names)) if moving else None


def corrected_points(deformer: Deformer | None, params: Tree, one: QuerySet) -> jax.Array:
    """Template points (K,3) of a data set in its own convention: moved by learned offsets and by the deformer."""
    points = jnp.asarray(one.points) + symmetric_offsets(params, one)
    if deformer is None or DEFORMER not in params:
        return points
    return points + deformer.of_dataset(params, one.dataset, one.points)


def named_layouts(config: ml_collections.ConfigDict, params: Tree) -> dict[str, np.ndarray]:
    """Layouts that a model answers besides those of the package.

    Returns:
        {data set: template points (K,3)}: the points of the user's own data sets, and those of data sets whose points
        are moved to their own convention, by learned offsets or a deformer.
    """
    entries = config.get("layouts", {})
    deformer = deformer_of(config) if DEFORMER in params else None
    moved = set(params.get(OFFSETS, {}))
    if deformer is not None:
        pairs = zip(deformer.names, deformer.learned, strict=True)
        moved |= {offset_key(name) for name, learned in pairs if learned}
    names = dict.fromkeys(map(dataset_name, (*config.data.datasets, *config.data.evaluate)))
    known = set(map(entry_key, names))
    names |= dict.fromkeys(name for name in entries if "points" in entries[name] and name not in known)
    found = {}
    for name in names:
        entry = entries.get(entry_key(name), {})
        if "points" in entry or (offset_key(name) in moved and "name" in entry):
            one = query_set(config, name)
            found[name] = np.asarray(corrected_points(deformer, params, one), np.float32)
    return found
