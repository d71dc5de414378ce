"""Landmark layouts, one file `assets/layouts/NAME.json` each, and the conversion from 98 to 68 points.

The files are listed with their checksums in `checksums.json` (`python -m jaxface.checksums FOLDER` writes it anew).

A file has the keys
    source: data set and publication of the layout;
    flip: point i of a mirrored image is point flip[i] of the original;
    eye_corners: the outer corners of the image-left and image-right eye, or null;
    five: for the image-left eye, image-right eye, nose tip, image-left and image-right mouth corner, the points whose
        mean it is;
    parts: the indices of each named part; R and L are the subject's right and left;
    outline: true if annotators place the points of the part "jaw" on the visible outline of the face; left out if they
        are projections of points of the head, or if there is no such part;
    points: how each point follows from the layouts 68 and 98, as weights {"98:33": 0.5, "98:41": 0.5}; "skin": 1 marks
        a point that is then moved to the closest point of the face's surface. Left out for 68 and 98 themselves, which
        every head model defines.
    template: instead of `points`, the points themselves on the template of `heads.canonical`, in units of 100 mm.
Flip maps, eye corners and the 98 -> 68 rule are those of the PIPNet repository.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping

import numpy as np

from jaxface import checksums

FOLDER = pathlib.Path(__file__).parent / "assets" / "layouts"
# Layouts that every head model defines by its own landmarks.
REFERENCES = ("68", "98")
SKIN = "skin"
MIRROR_X = np.array([-1, 1, 1])


@dataclasses.dataclass(frozen=True)
class Layout:
    """A layout of K points.

    Attributes:
        name: name of the layout.
        flip: (K,) int; point i of a mirrored image is point flip[i] of the original.
        eye_corners: indices of the outer corners of the image-left and image-right eye; None for AFLW, whose errors are
            normalised by box size.
        five: for the image-left eye, image-right eye, nose tip, image-left and image-right mouth corner, the points
            whose mean it is.
        names: K unique names, "brow_R_0": the part and the number within it.
        recipe: K mappings, how the template points follow from those of 68 and 98; () if the layout is one of them, or
            has `template`.
        template: K points in units of 100 mm; () if they follow from the layouts 68 and 98.
        source: data set and publication.
        follows_outline: whether the points of the part "jaw" lie on the visible outline of the face.
    """

    name: str
    flip: np.ndarray
    eye_corners: tuple[int, int] | None
    five: tuple[tuple[int, ...], ...]
    names: tuple[str, ...] = ()
    recipe: tuple[Mapping[str, float], ...] = ()
    template: tuple[tuple[float, float, float], ...] = ()
    source: str = ""
    follows_outline: bool = False

    @property
    def count(self) -> int:
        """K, the number of points."""
        return len(self.flip)

    def five_points(self, points: np.ndarray) -> np.ndarray:
        """Eyes, nose tip and mouth corners (...,5,D) of points (...,K,D)."""
        return np.stack([points[..., list(group), :].mean(-2) for group in self.five], axis=-2)

    def template_points(
        self, references: Mapping[str, np.ndarray], to_skin: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """Points (K,3) of the layout on the template, mirror-symmetric under the flip map.

        Args:
            references: points (68,3) and (98,3) of the template by layout, x to the subject's left.
            to_skin: (N,3) -> (N,3), the closest points of the face's surface.
        """
        if self.name in REFERENCES:
            return references[self.name]
        if self.template:
            return mirror_symmetric(np.array(self.template), self.flip)
        points = np.stack([_weighted(recipe, references) for recipe in self.recipe])
        on_skin = np.array([SKIN in recipe for recipe in self.recipe])
        if on_skin.any():
            points[on_skin] = to_skin(points[on_skin])
        return mirror_symmetric(points, self.flip)


def _weighted(recipe: Mapping[str, float], references: Mapping[str, np.ndarray]) -> np.ndarray:
    """The weighted sum (3,) of the reference points of a recipe."""
    total = np.zeros(3)
    for key, weight in recipe.items():
        if key != SKIN:
            layout, _, index = key.partition(":")
            total += weight * np.asarray(references[layout][int(index)], np.float64)
    return total


def mirror_symmetric(points: np.ndarray, flip: np.ndarray) -> np.ndarray:
    """The mean of template points or offsets (K,3) and of their mirror images, x -> -x with the flip map (K,)."""
    return (points + points[flip] * MIRROR_X) / 2


@functools.cache
def load(name: str) -> Layout:
    """The layout of the file `assets/layouts/NAME.json`. Raises UserError if it is missing or damaged."""
    values = json.loads(checksums.read(FOLDER / f"{name}.json"))
    names = [""] * len(values["flip"])
    for part, indices in values["parts"].items():
        for number, index in enumerate(indices):
            names[index] = f"{part}_{number}"
    corners = values["eye_corners"]
    return Layout(
        name=name,
        flip=np.array(values["flip"]),
        eye_corners=None if corners is None else tuple(corners),
        five=tuple(map(tuple, values["five"])),
        names=tuple(names),
        recipe=tuple(values.get("points", ())),
        template=tuple(map(tuple, values.get("template", ()))),
        source=values["source"],
        follows_outline=values.get("outline", False),
    )


def _file_order(name: str) -> tuple[bool, int]:
    """The reference layouts first, then by number of points."""
    return name not in REFERENCES, int(name)


_names = [file_name.removesuffix(".json") for file_name in checksums.listed(FOLDER)]
LAYOUTS = {name: load(name) for name in sorted(_names, key=_file_order)}
LAYOUT_68, LAYOUT_98 = (LAYOUTS[name] for name in REFERENCES)


# Weighted means of two points of WFLW's eye, offsets from its first point: (2 a + b) / 3 for each point of iBUG's eye.
EYE_PAIRS = ((0, 0), (1, 2), (3, 2), (4, 4), (5, 6), (7, 6))


def wflw_to_ibug(points: np.ndarray) -> np.ndarray:
    """68 points (...,68,2) from 98 points (...,98,2), by PIPNet's rule.

    Every second point of the jaw; brows have x of the upper line and the mean y of both lines; two points of each lid
    are moved by a third; nose and mouth are unchanged.
    """
    parts = [
        points[..., 0:33:2, :],
        points[..., 33:34, :],
        _brow(points, range(34, 38), range(41, 37, -1)),
        _brow(points, range(42, 46), range(50, 46, -1)),
        points[..., 46:47, :],
        points[..., 51:60, :],
        _eye(points, 60),
        _eye(points, 68),
        points[..., 76:96, :],
    ]
    return np.concatenate(parts, axis=-2)


def _brow(points: np.ndarray, upper: range, lower: range) -> np.ndarray:
    top, bottom = points[..., list(upper), :], points[..., list(lower), :]
    return np.stack([top[..., 0], (top[..., 1] + bottom[..., 1]) / 2], axis=-1)


def _eye(points: np.ndarray, first: int) -> np.ndarray:
    mixed = [(2 * points[..., first + a, :] + points[..., first + b, :]) / 3 for a, b in EYE_PAIRS]
    return np.stack(mixed, axis=-2)
