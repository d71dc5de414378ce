"""What is made of the dense points of a face besides its landmarks: a fitted head, masks of regions, a texture."""

import dataclasses
import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from jaxface import meshes
from jaxface.errors import UserError
from jaxface.heads.sources import EMBEDDED, load_head
from jaxface.results import FittedHead, LazyFiles
from jaxface.systems.continuous import asked_layouts, head_fit, painting
from jaxface.systems.continuous.painting import Surface

# The keyword arguments of `predict.predict_batch` that ask for them.
NAMES = ("fit", "masks", "texture", "paint")


@dataclasses.dataclass(frozen=True, eq=False)
class Applications:
    """Which of them a caller asks for.

    Attributes:
        fit: fit a head.
        masks: regions of the label image, () for none.
        texture: paint the photo into the UV map of the head.
        paint: (N,N,4) uint8 RGBA, a map of the head's UV that is painted onto the face; None for none.
        trained: the regions that the model was trained on.
    """

    fit: bool
    masks: tuple[str, ...]
    texture: bool
    paint: np.ndarray | None
    trained: tuple[str, ...]

    @classmethod
    def parse(cls, fit: bool, masks: Any, texture: bool, paint: Any, trained: tuple[str, ...]) -> "Applications":
        """Checks what a caller asks for.

        Args:
            fit, texture: whether they are asked for.
            masks: region names, or one string of them with commas; an empty list for none.
            paint: (N,N,3) or (N,N,4) uint8, or None.
            trained: the regions that the model was trained on.

        Raises:
            UserError: an unknown region, one that the model was not trained on, or a map of another shape.
        """
        named = masks is not None and (isinstance(masks, str) or len(masks))
        regions = asked_layouts.parse_regions("masks", masks, trained) if named else ()
        return cls(bool(fit), regions, bool(texture), None if paint is None else _checked_map(paint), trained)

    def __bool__(self) -> bool:
        return self.fit or bool(self.masks) or self.texture or self.paint is not None


def _checked_map(paint: Any) -> np.ndarray:
    """The map (N,N,4) uint8 RGBA. Raises UserError for another shape or type."""
    array = np.asarray(paint)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[0] != array.shape[1] or array.shape[2] not in (3, 4):
        raise UserError(
            f"paint: the map is {array.dtype} of shape {array.shape}; give a square RGBA image such as _texture.png"
        )
    if array.shape[2] == 3:
        array = np.concatenate([array, np.full((*array.shape[:2], 1), 255, np.uint8)], axis=2)
    return np.ascontiguousarray(array)


def fields(asked: Applications, surface: Surface, image: np.ndarray) -> dict[str, Any]:
    """The fields of `FaceLandmarks` for the applications.

    Args:
        asked: what the caller asks for.
        surface: the predicted surface of the face.
        image: (H,W,3) uint8 RGB.
    """
    size = (image.shape[0], image.shape[1])
    found: dict[str, Any] = {}
    encoders: dict[str, Callable[[], bytes]] = {}
    if asked.masks:
        mask = painting.region_mask_image(surface, asked.masks, size)
        labels = {region: number for number, region in enumerate(asked.masks, start=1)}
        found |= {"mask": mask, "mask_labels": labels, "layer": (painting.mask_layer(mask), (0, 0))}
    texture = painting.photo_texture(surface, image, asked.trained) if asked.texture else None
    if texture is not None:
        found["texture"] = texture
        encoders["_texture.png"] = lambda: _png(texture)
    if asked.paint is not None:
        found["paint"] = painting.paint_layer(surface, asked.paint, size)
    if asked.fit:
        head = fitted(surface, size)
        mesh = head.mesh if texture is None else painting.textured(head.mesh, texture)
        found |= {"head": head, "layer": head.draw()}
        encoders[".glb"] = lambda: meshes.encode(mesh, ".glb", "mm")
        encoders[".obj"] = lambda: meshes.encode(head.mesh, ".obj", "mm")
    return found | {"files": LazyFiles(encoders)}


def fitted(surface: Surface, size: tuple[int, int], identity: np.ndarray | None = None) -> FittedHead:
    """The embedded head fitted to a predicted surface; see `head_fit.fit_head`."""
    head, sigma = load_head(EMBEDDED), head_fit.correlated(surface.sigma)
    vertices = surface.template.vertices
    coefficients, camera = head_fit.fit_head(head, vertices, surface.points, sigma, size, identity)
    mesh = head_fit.head_mesh(head, coefficients)
    weights = dict(zip(head.expression_names, coefficients["expression"].tolist(), strict=True))
    return FittedHead(
        coefficients=coefficients,
        blendshapes=weights,
        camera=camera,
        mesh=mesh,
        draw=functools.partial(painting.head_layer, mesh, camera, size),
        refit=functools.partial(fitted, surface, size),
    )


def _png(values: np.ndarray) -> bytes:
    """The PNG file of an RGBA image (H,W,4) uint8."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "png", compress_level=3)
    return buffer.getvalue()
