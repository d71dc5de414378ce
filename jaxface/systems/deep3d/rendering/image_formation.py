"""From coefficients to a picture: shape, pose, light, camera and mask of Deep3DFaceReconstruction, differentiable.

Deng et al., CVPRW 2019, §3; models/bfm.py and util/nvdiffrast.py of Deep3DFaceRecon_pytorch. Units are decimetres, the
camera stands at (0,0,10) and looks along -z. Projected points are in pixels of a 224 px crop with y UP from the lower
edge, as the original's; the picture's rows run down, and its pixel (column c, row r) samples (c + 0.5, 224 - r - 0.5).
B batch, V vertices; everything is float32.
"""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp

from jaxface.geometry import lighting, mesh, raster
from jaxface.systems.deep3d.face_model import FaceModel, at_landmarks
from jaxface.systems.deep3d.preprocessing.alignment import REFERENCE_SIZE

FOCAL_PX, CENTER_PX = 1015.0, 112.0
CAMERA_DM = 10.0
NEAR_DM, FAR_DM = 5.0, 15.0
AMBIENT = 0.8
# Points nearer to the camera's plane than a millimetre are projected from there: finite, whatever a young net says.
SMALLEST_DEPTH_DM = 0.01
BANDS = 9


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How many coefficients of each kind there are; `white`: one light for all channels, as in the paper (239)."""

    identity: int = 80
    expression: int = 64
    albedo: int = 80
    white: bool = False

    @property
    def groups(self) -> dict[str, int]:
        """Name and length of each part of the vector, in its order."""
        return {
            "identity": self.identity,
            "expression": self.expression,
            "albedo": self.albedo,
            "angles": 3,
            "light": BANDS if self.white else 3 * BANDS,
            "translation": 3,
        }

    @property
    def total(self) -> int:
        """Length of the vector: 257 in the public codes."""
        return sum(self.groups.values())


@flax.struct.dataclass
class Coefficients:
    """A vector's parts: identity (B,I), expression (B,E), albedo (B,A) in standard deviations, angles (B,3) rad about
    x, y, z, light (B,3,9) per channel, without the ambient term, translation (B,3) dm."""

    identity: jax.Array
    expression: jax.Array
    albedo: jax.Array
    angles: jax.Array
    light: jax.Array
    translation: jax.Array


def split(vector: jax.Array, sizes: Sizes) -> Coefficients:
    """The parts of vectors (B,sizes.total)."""
    parts, start = {}, 0
    for name, count in sizes.groups.items():
        parts[name] = vector[:, start : start + count]
        start += count
    light = parts["light"].reshape(vector.shape[0], -1, BANDS)
    return Coefficients(**{**parts, "light": jnp.broadcast_to(light, (vector.shape[0], 3, BANDS))})


@flax.struct.dataclass
class Decoded:
    """A decoded face: vertices (B,V,3) in camera space (x right, y up, z = distance from the camera's plane), albedo
    (B,V,3) and colors (B,V,3) under the light, both unclipped with 1 = white, normals (B,V,3) turned with the head,
    landmarks (B,68,2) in pixels with y up."""

    vertices: jax.Array
    albedo: jax.Array
    colors: jax.Array
    normals: jax.Array
    landmarks: jax.Array


def _blend(mean: jax.Array, *modes: tuple[jax.Array, jax.Array]) -> jax.Array:
    total = jnp.asarray(mean)
    for weights, basis in modes:
        total = total + jnp.tensordot(weights, basis, 1, precision="highest")
    return total


def canonical_shape(face: FaceModel, identity: jax.Array, expression: jax.Array) -> jax.Array:
    """Vertices (B,V,3) dm before posing."""
    return _blend(face.mean, (identity, face.identity), (expression, face.expression))


def rotation(angles: jax.Array) -> jax.Array:
    """Matrices (B,3,3) = Rz Ry Rx of angles (B,3) rad; points are columns."""
    (cx, cy, cz), (sx, sy, sz) = jnp.cos(angles).T, jnp.sin(angles).T
    rows = [
        [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
        [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
        [-sy, cy * sx, cy * cx],
    ]
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def rotate(points: jax.Array, matrices: jax.Array) -> jax.Array:
    """Points (B,N,3) turned by matrices (B,3,3)."""
    # Sums of products: on CPUs a matrix product this thin takes several times as long.
    return sum(points[..., axis, None] * matrices[:, None, :, axis] for axis in range(3))


def to_camera(points: jax.Array) -> jax.Array:
    """Posed points (…,3) dm in camera space: their depth is measured from the camera."""
    return points.at[..., 2].set(CAMERA_DM - points[..., 2])


def project(points: jax.Array) -> jax.Array:
    """Pixels (…,2), y up, of camera-space points (…,3) dm. Points in the camera's plane are moved off it."""
    depth = points[..., 2:]
    depth = jnp.where(jnp.abs(depth) < SMALLEST_DEPTH_DM, SMALLEST_DEPTH_DM, depth)
    return CENTER_PX + FOCAL_PX * points[..., :2] / depth


def shade(albedo: jax.Array, normals: jax.Array, light: jax.Array) -> jax.Array:
    """Colours (B,V,3) of albedo (B,V,3) with turned normals (B,V,3) under light (B,3,9) and the ambient light."""
    lit = light.at[:, :, 0].add(AMBIENT).swapaxes(-1, -2)
    return jax.vmap(lighting.sh_shade)(normals, lit) * albedo


def decode(face: FaceModel, coefficients: Coefficients) -> Decoded:
    """The posed and lit face of coefficients. models/bfm.py, compute_for_render."""
    shape = canonical_shape(face, coefficients.identity, coefficients.expression)
    albedo = _blend(face.albedo_mean, (coefficients.albedo, face.albedo))
    matrices = rotation(coefficients.angles)
    normals = rotate(mesh.batch_vertex_normals(shape, face.triangles, face.incidence), matrices)
    vertices = to_camera(rotate(shape, matrices) + coefficients.translation[:, None])
    colors = shade(albedo, normals, coefficients.light)
    return Decoded(vertices, albedo, colors, normals, project(at_landmarks(face, vertices)))


def project_landmarks(face: FaceModel, coefficients: Coefficients) -> jax.Array:
    """The landmarks (B,68,2) of `decode` alone, without the other vertices."""
    mean, identity, expression = (at_landmarks(face, part) for part in (face.mean, face.identity, face.expression))
    shape = _blend(mean, (coefficients.identity, identity), (coefficients.expression, expression))
    posed = rotate(shape, rotation(coefficients.angles)) + coefficients.translation[:, None]
    return project(to_camera(posed))


@flax.struct.dataclass
class Rendered:
    """Pictures: image (B,S,S,3) on black, depth (B,S,S) dm with 0 where nothing is, covered and crop (B,S,S) bool; crop
    is where the photometric loss looks."""

    image: jax.Array
    depth: jax.Array
    covered: jax.Array
    crop_mask: jax.Array


def to_pixels(vertices: jax.Array, size: int) -> jax.Array:
    """Where camera-space vertices (…,3) lie in a picture of `size` px: (…,2) x right, y down, centres at integers."""
    points = project(vertices) * jnp.array([1.0, -1.0]) + jnp.array([0.0, REFERENCE_SIZE])
    return points * (size / REFERENCE_SIZE) - 0.5


def render(face: FaceModel, decoded: Decoded, size: int = REFERENCE_SIZE, visibility: str = "scatter") -> Rendered:
    """Pictures of `size` px without antialiasing, so that silhouettes carry no gradient, as the original's renderer.

    A triangle that reaches out of near and far plane is dropped whole. `visibility`: see `raster.rasterize`.
    """
    one = functools.partial(_render_one, face, size=size, visibility=visibility)
    return jax.vmap(one)(decoded.vertices, decoded.colors)


def _render_one(face: FaceModel, vertices: jax.Array, colors: jax.Array, size: int, visibility: str) -> Rendered:
    points_px, depth = to_pixels(vertices, size), vertices[:, 2]
    drawable = jnp.where((depth >= NEAR_DM) & (depth <= FAR_DM), depth, 0.0)

    def visible(triangles: jax.Array) -> jax.Array:
        shown = raster.rasterize(points_px, drawable, triangles, size, size, near=NEAR_DM, visibility=visibility)
        return shown.triangle_id

    triangle_id = visible(face.triangles)
    attributes = jnp.concatenate([colors, vertices[:, 2:]], -1)
    surface = raster.interpolate(attributes, points_px, depth, face.triangles, triangle_id)
    covered = triangle_id >= 0
    if face.crop_triangles is None:
        crop = covered & jnp.asarray(face.crop_triangle_mask)[jnp.maximum(triangle_id, 0)]
    else:
        crop = visible(face.crop_triangles) >= 0
    return Rendered(surface[..., :3], surface[..., 3], covered, crop)
