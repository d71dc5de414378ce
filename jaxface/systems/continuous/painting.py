"""Images drawn with the predicted surface: masks of regions, the photo as a texture, the fitted head as a layer.

Hidden parts are left out by the depth test of `depth_test`, which knows the face itself but not hair or hands.
"""

import dataclasses
import functools
from typing import TypeAlias

import cv2
import numpy as np

from jaxface.heads.closed import BELOW
from jaxface.heads.morphable import MorphableHead
from jaxface.heads.sources import EMBEDDED, load_head
from jaxface.meshes import Mesh
from jaxface.results import Camera
from jaxface.systems.continuous import depth_test
from jaxface.systems.continuous.template_surface import TemplateSurface, region_mask, surface

# RGBA (h,w,4) uint8 and the pixel (x, y) of the image at which its upper left pixel lies.
Layer: TypeAlias = tuple[np.ndarray, tuple[int, int]]
# Side of a texture in texels, and of the canvas in which the surface is drawn for the depth test of its texels.
TEXTURE_SIDE, CANVAS_PX = 2048, 512
# A photo whose face is larger than a texture by this factor is reduced before it is sampled.
MAX_REDUCTION_FREE = 1.5
MASK_ALPHA, HEAD_ALPHA = 150, 190
HEAD_COLOR = np.array([205, 205, 215])
# Colours of the regions of a mask in overlays.
MASK_COLORS = ((230, 60, 60), (60, 190, 75), (70, 110, 240), (245, 200, 40), (190, 80, 220), (60, 210, 220))


@dataclasses.dataclass(frozen=True, eq=False)
class Surface:
    """The predicted surface of one face.

    Attributes:
        template: the S template points and T triangles.
        points: (S,2) px.
        sigma: (S,) px.
        depth: (S,) in template units, towards the viewer.
    """

    template: TemplateSurface
    points: np.ndarray
    sigma: np.ndarray
    depth: np.ndarray

    @classmethod
    def predicted(cls, template: TemplateSurface, points: np.ndarray, sigma: np.ndarray) -> "Surface":
        """The surface of predicted points."""
        depth = template.closed @ depth_test.toward_viewer(template.closed, points, sigma)
        return cls(template, points, sigma, depth)

    def window(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Corner (x, y) and size (width, height) of its bounding box inside an image (height, width)."""
        limit = np.array(size[::-1])
        low = np.clip(np.floor(self.points.min(axis=0)).astype(int), 0, limit)
        high = np.clip(np.ceil(self.points.max(axis=0)).astype(int) + 1, 0, limit)
        return low, np.maximum(high - low, 0)

    def drawn(self, corner: np.ndarray, extent: np.ndarray) -> np.ndarray:
        """The nearest triangle (height,width) of each pixel of a window."""
        width, height = extent.tolist()
        return depth_test.nearest_triangles(self.points - corner, self.depth, self.template.triangles, height, width)


def region_mask_image(face: Surface, regions: tuple[str, ...], size: tuple[int, int]) -> np.ndarray:
    """Labels (height,width) uint8 of an image: k for the k-th region, from 1, and 0 elsewhere.

    Where regions overlap, as the lips do with the face, the smaller one counts.
    """
    labels = np.zeros(size, np.uint8)
    corner, extent = face.window(size)
    if extent.all():
        drawn = face.drawn(corner, extent)
        of_triangle = np.append(_triangle_labels(face.template, regions), 0)  # the last one is that of EMPTY
        (x, y), (width, height) = corner, extent
        labels[y : y + height, x : x + width] = of_triangle[drawn]
    return labels


def _triangle_labels(template: TemplateSurface, regions: tuple[str, ...]) -> np.ndarray:
    head = load_head(EMBEDDED)
    labels = np.zeros(len(template.triangles), np.uint8)
    masks = [region_mask(head, (region,))[template.vertices][template.triangles].all(axis=1) for region in regions]
    for number in sorted(range(len(regions)), key=lambda number: -masks[number].sum()):
        labels[masks[number]] = number + 1
    return labels


def mask_layer(labels: np.ndarray) -> np.ndarray:
    """The layer (h,w,4) uint8 RGBA of a label image for the overlay."""
    colors = np.zeros((256, 4), np.uint8)
    for label in range(1, 256):
        colors[label] = (*MASK_COLORS[(label - 1) % len(MASK_COLORS)], MASK_ALPHA)
    return colors[labels]


@dataclasses.dataclass(frozen=True, eq=False)
class Atlas:
    """The texels of a surface in the UV map of the head; M texels.

    Attributes:
        row, column: (M,).
        triangle: (M,) indices of the surface's triangles.
        weights: (M,3) barycentric weights.
    """

    row: np.ndarray
    column: np.ndarray
    triangle: np.ndarray
    weights: np.ndarray


@functools.cache
def atlas(regions: tuple[str, ...]) -> Atlas:
    """The atlas of `template_surface.surface(regions)`."""
    head, template = load_head(EMBEDDED), surface(regions)
    corners = _uv_pixels(head)[np.asarray(head.uv_triangles)[template.head_triangles]]
    image = np.full((TEXTURE_SIDE, TEXTURE_SIDE), depth_test.EMPTY, np.int32)
    fixed_point = np.rint(corners * 2**depth_test.SUBPIXEL_BITS).astype(np.int32)
    for number, corner in enumerate(fixed_point):
        cv2.fillConvexPoly(image, corner, number, shift=depth_test.SUBPIXEL_BITS)
    row, column = np.nonzero(image != depth_test.EMPTY)
    triangle = image[row, column]
    weights = depth_test.barycentric(np.stack([column, row], axis=-1), corners[triangle])
    return Atlas(row, column, triangle, weights)


def _uv_pixels(head: MorphableHead) -> np.ndarray:
    """Texture coordinates (U,2) in texels: x right, y down, centres at integers."""
    uv = np.asarray(head.uv, np.float64)
    return np.stack([uv[:, 0], 1 - uv[:, 1]], axis=-1) * TEXTURE_SIDE - 0.5


def photo_texture(face: Surface, image: np.ndarray, regions: tuple[str, ...]) -> np.ndarray:
    """The photo in the UV map of the head, (2048,2048,4) uint8 RGBA; alpha is 0 where it shows nothing of the face.

    Args:
        face: the predicted surface of `regions`.
        image: (H,W,3) uint8 RGB.
        regions: of the surface.
    """
    texels = atlas(regions)
    index = face.template.triangles[texels.triangle]
    positions = (texels.weights[..., None] * face.points[index]).sum(axis=1)
    depth = (texels.weights * face.depth[index]).sum(axis=1)
    low, high = face.points.min(axis=0), face.points.max(axis=0)
    scale = (CANVAS_PX - 3) / max(float((high - low).max()), 1e-6)
    on_canvas = dataclasses.replace(face, points=(face.points - low) * scale + 1)
    drawn = on_canvas.drawn(np.zeros(2), np.array([CANVAS_PX, CANVAS_PX]))
    at = (positions - low) * scale + 1
    covered = depth_test.surface_depth(at, drawn, on_canvas.points, face.depth, face.template.triangles)
    height, width = image.shape[:2]
    shown = _is_front(face)[texels.triangle] & (depth >= covered - depth_test.TOLERANCE)
    shown &= (positions >= -0.5).all(axis=1) & (positions <= [width - 0.5, height - 0.5]).all(axis=1)
    texture = np.zeros((TEXTURE_SIDE, TEXTURE_SIDE, 4), np.uint8)
    texture[texels.row, texels.column, :3] = _sampled(image, positions, float((high - low).max()), texels)
    texture[texels.row, texels.column, 3] = 255
    texture[texels.row[~shown], texels.column[~shown]] = 0
    return texture


def _is_front(face: Surface) -> np.ndarray:
    """The triangles (T,) bool that face the viewer."""
    a, b, c = np.moveaxis(face.points[face.template.triangles], 1, 0)
    (ux, uy), (vx, vy) = (b - a).T, (c - a).T
    return ux * vy - uy * vx < 0


def _sampled(image: np.ndarray, positions: np.ndarray, face_px: float, texels: Atlas) -> np.ndarray:
    """Colours (M,3) uint8 of an image at positions (M,2) px; a photo much larger than the texture is averaged."""
    step = max(1, round(face_px / (MAX_REDUCTION_FREE * TEXTURE_SIDE)))
    if step > 1:
        height, width = image.shape[:2]
        image = cv2.resize(image, (max(1, width // step), max(1, height // step)), interpolation=cv2.INTER_AREA)
        positions = (positions + 0.5) * [image.shape[1] / width, image.shape[0] / height] - 0.5
    at = np.zeros((TEXTURE_SIDE, TEXTURE_SIDE, 2), np.float32)
    at[texels.row, texels.column] = np.clip(positions, -1e4, 1e5)
    return cv2.remap(image, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[texels.row, texels.column]


def paint_layer(face: Surface, texture: np.ndarray, size: tuple[int, int]) -> Layer:
    """The layer of a texture (N,N,4) uint8 RGBA of the head's UV map on the visible face in an image (height,width)."""
    corner, extent = face.window(size)
    layer = np.zeros((extent[1], extent[0], 4), np.uint8)
    if extent.all():
        head, drawn = load_head(EMBEDDED), face.drawn(corner, extent)
        row, column = np.nonzero(drawn != depth_test.EMPTY)
        number = drawn[row, column]
        corners = face.points[face.template.triangles[number]] - corner
        weights = depth_test.barycentric(np.stack([column, row], axis=-1), corners)
        texels = _uv_pixels(head)[np.asarray(head.uv_triangles)[face.template.head_triangles[number]]]
        at = np.zeros((*drawn.shape, 2), np.float32)
        scale = len(texture) / TEXTURE_SIDE
        at[row, column] = ((weights[..., None] * texels).sum(axis=1) + 0.5) * scale - 0.5
        sampled = cv2.remap(texture, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        layer[row, column] = sampled[row, column]
    return layer, (int(corner[0]), int(corner[1]))


def head_layer(mesh: Mesh, camera: Camera, size: tuple[int, int]) -> Layer:
    """The fitted head, flat-shaded from the viewer's side: RGBA layer (h,w,4) uint8 and its corner in the image.

    The shoulders, which the points of a face hardly determine, are left out.
    """
    intrinsics, extrinsics = camera.opencv()
    in_camera = mesh.vertices @ extrinsics[:, :3].T + extrinsics[:, 3]
    points = (in_camera @ intrinsics.T)[:, :2] / np.maximum(in_camera[:, 2:], 1.0)
    limit = np.array(size[::-1])
    low = np.clip(np.floor(points.min(axis=0)).astype(int), 0, limit)
    width, height = np.maximum(np.clip(np.ceil(points.max(axis=0)).astype(int) + 1, 0, limit) - low, 0).tolist()
    corner = (int(low[0]), int(low[1]))
    if not width or not height:
        return np.zeros((0, 0, 4), np.uint8), corner
    triangles = mesh.triangles[~region_mask(load_head(EMBEDDED), (BELOW,))[mesh.triangles].any(axis=1)]
    drawn = depth_test.nearest_triangles(points - low, -in_camera[:, 2], triangles, height, width)
    a, b, c = np.moveaxis(in_camera[triangles], 1, 0)
    normals = np.cross(b - a, c - a)
    brightness = 0.3 + 0.7 * np.abs(normals[:, 2]) / np.maximum(np.linalg.norm(normals, axis=1), 1e-9)
    colors = np.concatenate([brightness[:, None] * HEAD_COLOR, np.full((len(normals), 1), HEAD_ALPHA)], axis=1)
    return np.append(colors, np.zeros((1, 4)), axis=0).astype(np.uint8)[drawn], corner


def textured(mesh: Mesh, texture: np.ndarray) -> Mesh:
    """The embedded head's mesh with a texture (N,N,4) RGBA; texels without photo get the mean colour of the others."""
    head = load_head(EMBEDDED)
    opaque = ~region_mask(head, ("transparent",))[head.triangles].any(axis=1)
    pairs = np.stack([head.triangles[opaque], np.asarray(head.uv_triangles)[opaque]], axis=-1).reshape(-1, 2)
    unique, index = np.unique(pairs, axis=0, return_inverse=True)
    shown = texture[..., 3] > 0
    filled = np.where(shown[..., None], texture[..., :3], texture[shown][:, :3].mean(axis=0) if shown.any() else 128)
    return Mesh(
        vertices=mesh.vertices[unique[:, 0]],
        triangles=index.reshape(-1, 3).astype(np.int32),
        uv=np.asarray(head.uv, np.float32)[unique[:, 1]],
        texture=filled.astype(np.uint8),
    )
