"""The layouts that a caller asks for: names, template points and files of them, checked, as queries by name."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxface import array_files
from jaxface.errors import UserError
from jaxface.heads import canonical
from jaxface.layouts import LAYOUTS
from jaxface.systems.continuous import template_surface
from jaxface.systems.continuous.network import Answer
from jaxface.systems.continuous.outline import SKIN, Outline, outline

# Largest coordinate of the head in template units (100 mm) with a margin, and a distance from the head's origin within
# which there is no skin: coordinates beyond mean that the caller used another unit.
MAX_QUERY_COORDINATE, MIN_QUERY_RADIUS = 4.0, 0.15
POINTS_FILE = ".npy"
CUSTOM = "custom"


@dataclasses.dataclass(frozen=True, eq=False)
class AskedLayout:
    """One layout.

    Attributes:
        name: of the layout; "custom" for an array, the stem of a file of points.
        queries: (N,3) float32 template points.
        edges: (E,2) pairs of points that the overlay joins; None for layouts that are not a mesh.
        outline: lines of template points for the points on the visible outline; None for layouts without.
    """

    name: str
    queries: np.ndarray
    edges: np.ndarray | None = None
    outline: Outline | None = None


def parse(layout: Any, own: Mapping[str, np.ndarray], trained: tuple[str, ...]) -> list[AskedLayout]:
    """The layouts of one name, array or file, or of a sequence of these; a string may hold several, by commas.

    Args:
        layout: see `predict.predict`.
        own: the model's own layouts, template points (N,3) by name.
        trained: the regions that the model was trained on; () for any.

    Raises:
        UserError: an unknown or repeated name, malformed points, or a part of the head that the model does not know.
    """
    asked = [_one(item, own, trained) for item in _items(layout)]
    names: dict[str, AskedLayout] = {}
    for one in asked:
        name = one.name
        if name in names and name != CUSTOM:
            raise UserError(f"layout: {name!r} is asked for twice; name each layout once")
        number = 2
        while name in names:
            name, number = f"{CUSTOM}_{number}", number + 1
        names[name] = dataclasses.replace(one, name=name)
    return list(names.values())


def _items(layout: Any) -> list[Any]:
    """The single layouts in `layout`; numbers in nested lists are points, not several layouts."""
    if isinstance(layout, str):
        items = [item.strip() for item in layout.split(",")]
        if not all(items):
            raise UserError(f"layout: {layout!r} has an empty name; write names separated by commas, such as 68,98")
        return items
    if isinstance(layout, (list, tuple)) and any(map(_is_layout, layout)):
        return list(layout)
    return [layout]


def _is_layout(item: Any) -> bool:
    """Whether an element of a list is a layout of its own: a name, also as a number, a path, or points (N,3)."""
    if isinstance(item, (str, int, os.PathLike)):
        return True
    return isinstance(item, (list, tuple, np.ndarray)) and np.ndim(item) == 2


def _one(layout: Any, own: Mapping[str, np.ndarray], trained: tuple[str, ...]) -> AskedLayout:
    if isinstance(layout, int) and not isinstance(layout, bool):
        layout = str(layout)
    if isinstance(layout, str) and layout in own:
        return AskedLayout(layout, own[layout])
    if isinstance(layout, os.PathLike) or (isinstance(layout, str) and layout.endswith(POINTS_FILE)):
        path = pathlib.Path(layout)
        queries = _checked(array_files.read_npy(path), str(path))
        template_surface.check_points(queries, trained)
        return AskedLayout(path.stem, queries)
    queries = layout_queries(layout)
    if not isinstance(layout, str):
        template_surface.check_points(queries, trained)
        return AskedLayout(CUSTOM, queries)
    if layout in LAYOUTS:
        return AskedLayout(layout, queries, outline=outline(layout) if set(SKIN) <= set(trained) else None)
    template_surface.check_region("layout", layout, trained)
    return AskedLayout(layout, queries, template_surface.edges(layout))


def layout_queries(layout: Any) -> np.ndarray:
    """Template points (N,3) float32 of a layout name or an array.

    Raises UserError for an unknown name, a wrong shape, NaN, or coordinates in another unit.
    """
    return canonical.queries(layout) if isinstance(layout, str) else _checked(layout, "layout")


def _checked(points: Any, where: str) -> np.ndarray:
    """Template points (N,3) float32; `where` is for messages."""
    try:
        queries = np.asarray(points, np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {type(points).__name__} is not a layout; give a name or numbers (N,3)") from error
    if queries.ndim != 2 or queries.shape[1] != 3 or len(queries) == 0:
        raise UserError(f"{where}: the template points have shape {queries.shape}; they must be (N,3)")
    if not np.isfinite(queries).all():
        bad = int((~np.isfinite(queries)).any(axis=1).sum())
        raise UserError(f"{where}: {bad} of {len(queries)} template points are NaN or infinite; remove them")
    largest = float(np.abs(queries).max())
    if largest > MAX_QUERY_COORDINATE:
        raise UserError(f"{where}: a template coordinate is {largest:g}, far outside the head; use units of 100 mm")
    if np.linalg.norm(queries, axis=1).max() < MIN_QUERY_RADIUS:
        raise UserError(f"{where}: all template points lie within {100 * MIN_QUERY_RADIUS:g} mm; use units of 100 mm")
    return queries


def line_queries(asked: Sequence[AskedLayout]) -> list[np.ndarray]:
    """The template points (J*M,3) of the lines of each layout that has an outline."""
    return [one.outline.lines.reshape(-1, 3) for one in asked if one.outline is not None]


def on_outlines(asked: Sequence[AskedLayout], answers: Sequence[Answer]) -> tuple[list[AskedLayout], list[Answer]]:
    """The layouts and their answers for one face, with contour points on the visible outline.

    Args:
        asked: the layouts.
        answers: to the queries of each, then to `line_queries`, then any others, which are returned as they are.
    """
    layouts, own, rest = list(asked), list(answers[: len(asked)]), list(answers[len(asked) :])
    for number, one in enumerate(asked):
        if one.outline is not None:
            queries, own[number] = one.outline.moved(one.queries, own[number], rest.pop(0))
            layouts[number] = dataclasses.replace(one, queries=queries)
    return layouts, own + rest


def parse_regions(flag: str, regions: str | Sequence[str], trained: tuple[str, ...]) -> tuple[str, ...]:
    """The names of regions, of a sequence or separated by commas.

    Raises UserError for an unknown or repeated region and for one that the model does not know.
    """
    names = [name.strip() for name in regions.split(",")] if isinstance(regions, str) else list(regions)
    every = [name for name in canonical.region_names() if name != canonical.JOINTS]
    for name in names:
        if name not in every:
            raise UserError(f"{flag}: {name!r} is not a region of the head; choose of {', '.join(every)}")
        template_surface.check_region(flag, name, trained)
    if len(set(names)) < len(names):
        raise UserError(f"{flag}: a region is named twice; name each once")
    return tuple(names)
