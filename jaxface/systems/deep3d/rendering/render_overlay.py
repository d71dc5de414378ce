"""Renders a reconstructed face into its image: colours, normals and depth, aligned with the pixels of the image."""

import dataclasses
import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from jaxface.geometry import raster
from jaxface.systems.deep3d.face_model import MM_PER_DM
from jaxface.systems.deep3d.preprocessing.alignment import REFERENCE_SIZE, Crop
from jaxface.systems.deep3d.rendering.image_formation import FOCAL_PX, MIN_DEPTH_DM

# Sides of the canvases, squares of fixed size, so that few shapes are compiled. A face larger than the last one is
# rendered at a smaller scale and enlarged.
CANVASES = (256, 512, 1024)
# Windows of the rasteriser's tiers. Few tiers compile fast, and speed matters little: it runs once per face.
WINDOWS = (4, 16, 64)
# Near plane. Unlike in the training renderer, a face may be close to the camera, and there is no far plane.
NEAR_DM = 1.0
# Margin of the rendered region around the projected vertices.
MARGIN_PX = 2
# Opacity of the overlay.
OPACITY = 0.8
# Standard deviation of the blur that softens the border of the face, in canvas pixels.
FEATHER_PX = 1.5
# Unit of the 16-bit depth map; 0 is background.
DEPTH_STEP_MM = 0.1
DEPTH_MAX_STEPS = 65535


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole camera in the pixels of an image: x right, y down, pixel centres at integers.

    Attributes:
        focal_px: (2,).
        center_px: (2,).
    """

    focal_px: np.ndarray
    center_px: np.ndarray

    def project(self, vertices: np.ndarray) -> np.ndarray:
        """Pixels (…,2) of camera-space points (…,3) dm: x right, y up, z = distance; see `image_formation.project`."""
        depth = vertices[..., 2:]
        depth = np.where(np.abs(depth) < MIN_DEPTH_DM, MIN_DEPTH_DM, depth)
        return vertices[..., :2] * [1, -1] / depth * self.focal_px + self.center_px


def image_camera(crop: Crop) -> Camera:
    """The camera of the whole image for a face that was reconstructed from `crop`."""
    return Camera(*crop.pinhole(FOCAL_PX * crop.size / REFERENCE_SIZE))


@dataclasses.dataclass(frozen=True)
class View:
    """A face rendered on a square canvas of side S that shows a region of the image.

    Attributes:
        corner: (x, y) of the region's top left pixel in the image.
        size: (width, height) of the region in pixels of the image.
        scale: canvas pixels per image pixel, at most 1.
        points_px: (V,2) vertices in pixels of the image.
        image: (S,S,4), RGB and depth in dm.
        normals: (S,S,3) unit normals: x right, y up, z to the viewer.
        covered: (S,S) bool, the silhouette of the head.
        shown: (S,S) in [0,1], the visible face without scalp, ears and neck; soft at its border.
    """

    corner: tuple[int, int]
    size: tuple[int, int]
    scale: float
    points_px: np.ndarray
    image: np.ndarray
    normals: np.ndarray
    covered: np.ndarray
    shown: np.ndarray

    def to_canvas(self, points_px: np.ndarray) -> np.ndarray:
        """Canvas pixels (…,2) of image pixels (…,2)."""
        return (points_px - np.array(self.corner) + 0.5) * self.scale - 0.5

    def resample(self, values: np.ndarray, nearest: bool = False) -> np.ndarray:
        """A map (S,S,…) of the canvas at the resolution of the image: (height,width,…) of the region."""
        width, height = self.size
        used = values[: round(height * self.scale), : round(width * self.scale)]
        method = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
        return cv2.resize(np.ascontiguousarray(used), (width, height), interpolation=method)


@functools.partial(jax.jit, static_argnames="side")
def _rasterize(
    points_px: jax.Array, depth: jax.Array, attributes: jax.Array, triangles: jax.Array, side: int
) -> tuple[jax.Array, jax.Array]:
    """Vertex attributes (V,C) as a map (side,side,C), and the visible triangle (side,side) of each pixel, -1: none."""
    # Depths that are not finite become 0, in front of the near plane: the rasteriser culls their triangles.
    depth = jnp.where(jnp.isfinite(depth), depth, 0.0)
    tiers = (*((window, None) for window in WINDOWS), (side, None))
    visible = raster.rasterize(points_px, depth, triangles, side, side, tiers=tiers, near=NEAR_DM)
    values = raster.interpolate(attributes, points_px, depth, triangles, visible.triangle_id)
    return values, visible.triangle_id


def render_view(
    camera: Camera,
    width: int,
    height: int,
    vertices: np.ndarray,
    colors: np.ndarray,
    normals: np.ndarray,
    triangles: np.ndarray,
    shown: np.ndarray,
) -> View:
    """Renders a face into an image, clipped to the image; triangles behind the near plane are culled.

    Args:
        camera: camera of the image.
        width: of the image in pixels.
        height: of the image in pixels.
        vertices: (V,3) dm, camera space.
        colors: (V,3) RGB.
        normals: (V,3) unit normals.
        triangles: (T,3).
        shown: (T,) bool, the triangles of `View.shown`.
    """
    points = camera.project(vertices)
    in_front = points[vertices[:, 2] >= NEAR_DM]
    low = np.floor(in_front.min(0, initial=np.inf)) - MARGIN_PX
    low = np.clip(low, 0, [width - 1, height - 1]).astype(int)
    high = np.ceil(in_front.max(0, initial=-np.inf)) + MARGIN_PX + 1
    high = np.clip(high, low + 1, [width, height]).astype(int)
    size = high - low
    side = next((side for side in CANVASES if side >= size.max()), CANVASES[-1])
    scale = min(1.0, side / size.max())
    canvas_points = (points - low + 0.5) * scale - 0.5
    attributes = np.concatenate([colors, vertices[:, 2:], normals], axis=1)
    arrays = (jnp.asarray(array, jnp.float32) for array in (canvas_points, vertices[:, 2], attributes))
    values, triangle_id = jax.device_get(_rasterize(*arrays, triangles, side=side))
    covered = triangle_id >= 0
    face = _feathered(covered & shown[np.maximum(triangle_id, 0)])
    length = np.linalg.norm(values[..., 4:], axis=-1, keepdims=True)
    unit_normals = values[..., 4:] / np.maximum(length, 1e-6)
    corner, region = tuple(low.tolist()), tuple(size.tolist())
    return View(corner, region, scale, points, values[..., :4], unit_normals, covered, face)


def _feathered(mask: np.ndarray) -> np.ndarray:
    """A mask (S,S) bool as opacity (S,S) float32 that falls to 0 inside its border."""
    blurred = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), FEATHER_PX)
    return np.clip(2 * blurred - 1, 0, 1)


def overlay_layer(view: View, opacity: float = OPACITY) -> tuple[np.ndarray, tuple[int, int]]:
    """The colours of the face, without scalp, ears and neck, as an image layer.

    Returns:
        RGBA (h,w,4) uint8, and the (x, y) of its top left pixel in the image.
    """
    alpha = opacity * view.shown[..., None]
    rgba = np.concatenate([np.clip(view.image[..., :3], 0, 1), alpha], axis=-1).astype(np.float32)
    return (255 * view.resample(rgba) + 0.5).astype(np.uint8), view.corner


def clean_render(view: View, width: int, height: int) -> np.ndarray:
    """The opaque layer of `overlay_layer` at the size of the whole image, (height,width,4) uint8 RGBA."""
    return _in_image(view, overlay_layer(view, opacity=1.0)[0], width, height)


def normal_map(view: View, width: int, height: int) -> np.ndarray:
    """Normal map (height,width,3) uint8 of the whole image: 255 * (n + 1) / 2 as RGB = right, up, to the viewer.

    A normal along the camera's axis is (128,128,255); the background is 0.
    """
    values = np.where(view.covered[..., None], 255 * (view.normals + 1) / 2 + 0.5, 0).astype(np.uint8)
    return _in_image(view, view.resample(values, nearest=True), width, height)


def depth_map(view: View, width: int, height: int) -> np.ndarray:
    """Distance from the camera's plane (height,width) uint16 of the whole image in DEPTH_STEP_MM; 0 is background."""
    steps = view.image[..., 3] * MM_PER_DM / DEPTH_STEP_MM
    values = np.where(view.covered, np.clip(steps + 0.5, 0, DEPTH_MAX_STEPS), 0).astype(np.uint16)
    return _in_image(view, view.resample(values, nearest=True), width, height)


def _in_image(view: View, values: np.ndarray, width: int, height: int) -> np.ndarray:
    """A map of the view's region as a map of the whole image, 0 elsewhere."""
    whole = np.zeros((height, width, *values.shape[2:]), values.dtype)
    x, y = view.corner
    whole[y : y + len(values), x : x + values.shape[1]] = values
    return whole
