"""A reconstructed face drawn in the picture that it was found in: its colours, normals and depth, pixel on pixel."""

import dataclasses
import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from jaxface.geometry import raster
from jaxface.systems.deep3d.preprocessing.alignment import REFERENCE_SIZE, Crop
from jaxface.systems.deep3d.rendering.image_formation import FOCAL_PX, SMALLEST_DEPTH_DM

# Sides of the squares that are drawn on: a larger face is drawn smaller and enlarged, so that little is compiled.
CANVASES = (256, 512, 1024)
# Few windows of the rasteriser, for few things to compile: it runs once a face.
WINDOWS = (4, 16, 64)
NEAR_DM = 1.0
MARGIN_PX = 2
OPACITY = 0.8
# A step of the depth map, 16 bits; 0 is where there is no head.
DEPTH_STEP_MM = 0.1
MM_PER_DM = 100.0


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera in the pixels of a picture: focal_px (2,) and center_px (2,), x right, y down, centres at integers."""

    focal_px: np.ndarray
    center_px: np.ndarray

    def project(self, vertices: np.ndarray) -> np.ndarray:
        """Pixels (…,2) of camera-space points (…,3) dm, x right, y up, z = distance; see `formation.project`."""
        depth = vertices[..., 2:]
        depth = np.where(np.abs(depth) < SMALLEST_DEPTH_DM, SMALLEST_DEPTH_DM, depth)
        return vertices[..., :2] * [1, -1] / depth * self.focal_px + self.center_px


def image_camera(crop: Crop) -> Camera:
    """The camera in the whole picture of a face that was reconstructed from `crop`."""
    return Camera(*crop.pinhole(FOCAL_PX * crop.size / REFERENCE_SIZE))


@dataclasses.dataclass(frozen=True)
class View:
    """A face drawn on a canvas, a square that shows a part of the picture, the picture's pixel p at p * scale + offset.

    corner (x, y) and size (w, h) of that part in the picture; points_px (V,2) of the vertices and depth (V,) dm; image
    (S,S,4): RGB in [0,1] and depth in dm; normals (S,S,3), x right, y up, z to the viewer; covered (S,S) bool.
    """

    corner: tuple[int, int]
    size: tuple[int, int]
    scale: float
    points_px: np.ndarray
    image: np.ndarray
    normals: np.ndarray
    covered: np.ndarray

    def to_canvas(self, points_px: np.ndarray) -> np.ndarray:
        """Places (…,2) on the canvas of pixels (…,2) of the picture."""
        return (points_px - np.array(self.corner) + 0.5) * self.scale - 0.5

    def spread(self, values: np.ndarray, nearest: bool = False) -> np.ndarray:
        """A map (S,S,…) of the canvas as pixels (h,w,…) of the picture's part."""
        width, height = self.size
        used = values[: round(height * self.scale), : round(width * self.scale)]
        method = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
        return cv2.resize(np.ascontiguousarray(used), (width, height), interpolation=method)


@functools.partial(jax.jit, static_argnames="side")
def _draw(points_px: jax.Array, depth: jax.Array, attributes: jax.Array, triangles: jax.Array, side: int):
    drawable = jnp.where(jnp.isfinite(depth), depth, 0.0)
    tiers = (*((window, None) for window in WINDOWS), (side, None))
    seen = raster.rasterize(points_px, drawable, triangles, side, side, tiers=tiers, near=NEAR_DM).triangle_id
    return raster.interpolate(attributes, points_px, drawable, triangles, seen), seen >= 0


def render_view(
    camera: Camera, width: int, height: int, vertices: np.ndarray, colors: np.ndarray, normals: np.ndarray, triangles
) -> View:
    """Draws camera-space vertices (V,3) dm with colors (V,3) and normals (V,3) into a picture of width x height px.

    What is behind the camera or outside the picture is left out.
    """
    points = camera.project(vertices)
    ahead = points[vertices[:, 2] >= NEAR_DM]
    low = np.clip(np.floor(ahead.min(0, initial=np.inf)) - MARGIN_PX, 0, [width - 1, height - 1]).astype(int)
    high = np.clip(np.ceil(ahead.max(0, initial=-np.inf)) + MARGIN_PX + 1, low + 1, [width, height]).astype(int)
    size = high - low
    side = next((side for side in CANVASES if side >= size.max()), CANVASES[-1])
    scale = min(1.0, side / size.max())
    on_canvas = (points - low + 0.5) * scale - 0.5
    attributes = np.concatenate([colors, vertices[:, 2:], normals], axis=1)
    image, covered = jax.device_get(
        _draw(*(jnp.asarray(a, jnp.float32) for a in (on_canvas, vertices[:, 2], attributes)), triangles, side=side)
    )
    made = image[..., 4:] / np.maximum(np.linalg.norm(image[..., 4:], axis=-1, keepdims=True), 1e-6)
    return View(tuple(low.tolist()), tuple(size.tolist()), scale, points, image[..., :4], made, covered)


def overlay_layer(drawn: View) -> tuple[np.ndarray, tuple[int, int]]:
    """The face's colours as an RGBA picture (h,w,4) uint8, a little transparent, and where its corner (x, y) lies."""
    alpha = OPACITY * drawn.covered[..., None]
    rgba = np.concatenate([np.clip(drawn.image[..., :3], 0, 1), alpha], axis=-1).astype(np.float32)
    return (255 * drawn.spread(rgba) + 0.5).astype(np.uint8), drawn.corner


def normal_map(drawn: View, width: int, height: int) -> np.ndarray:
    """Normals (height,width,3) uint8 over the whole picture as (n + 1) / 2: red right, green up, blue to the viewer.

    128 everywhere but in blue, which is 255, means facing the camera's axis; 0 is where there is no head.
    """
    values = np.where(drawn.covered[..., None], 255 * (drawn.normals + 1) / 2 + 0.5, 0).astype(np.uint8)
    return _into_picture(drawn, drawn.spread(values, nearest=True), width, height)


def depth_map(drawn: View, width: int, height: int) -> np.ndarray:
    """Distances (height,width) uint16 from the camera's plane over the whole picture in DEPTH_STEP_MM; 0 is no head."""
    steps = drawn.image[..., 3] * MM_PER_DM / DEPTH_STEP_MM
    values = np.where(drawn.covered, np.clip(steps + 0.5, 0, 65535), 0).astype(np.uint16)
    return _into_picture(drawn, drawn.spread(values, nearest=True), width, height)


def _into_picture(drawn: View, values: np.ndarray, width: int, height: int) -> np.ndarray:
    whole = np.zeros((height, width, *values.shape[2:]), values.dtype)
    x, y = drawn.corner
    whole[y : y + len(values), x : x + values.shape[1]] = values
    return whole
