"""The image formation model of Deep3DFaceReconstruction: from coefficients to a rendered image, differentiable.

Source: Deng et al., CVPRW 2019, §3; models/bfm.py and util/nvdiffrast.py of Deep3DFaceRecon_pytorch.

Frames, in decimetres: the face model has x image right, y up, z to the viewer; the camera stands at (0,0,10) and looks
along -z. Camera space keeps x and y and has z = distance from the camera's plane. Projected points are in pixels of a
224 px crop, y UP from its lower edge, as in the original. Image rows run down: pixel (column c, row r) samples the
point (c + 0.5, 224 - r - 0.5).

B batch, V vertices. All arrays are float32.
"""

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jaxface.geometry import lighting, mesh, raster
from jaxface.systems.deep3d.face_model import FaceModel, at_landmarks
from jaxface.systems.deep3d.preprocessing.alignment import REFERENCE_SIZE

# Camera of the original: focal, center, camera_d, z_near and z_far of models/facerecon_model.py.
FOCAL_PX, CENTER_PX = 1015.0, 112.0
CAMERA_DM = 10.0
NEAR_DM, FAR_DM = 5.0, 15.0
# Added to the first spherical-harmonics coefficient of each channel (models/bfm.py, init_lit).
AMBIENT = 0.8
# Depth is clamped to this lower bound, so that an untrained network gives finite pixels.
MIN_DEPTH_DM = 0.01
# Spherical-harmonics coefficients of bands 0 to 2.
BANDS = 9


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Number of coefficients of each kind.

    Attributes:
        identity, expression, albedo: numbers of modes.
        white: one set of lighting coefficients for all channels, as in the paper (239), instead of one per channel.
    """

    identity: int = 80
    expression: int = 64
    albedo: int = 80
    white: bool = False

    @property
    def groups(self) -> dict[str, int]:
        """Name and length of each part of the coefficient vector, in its order."""
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
        """Length of the coefficient vector: 257 in the public codes."""
        return sum(self.groups.values())

    def split(self, vectors: Any) -> dict[str, Any]:
        """The groups (…,n) of coefficient vectors (…,total) by name, numpy or JAX."""
        parts, start = {}, 0
        for name, count in self.groups.items():
            parts[name] = vectors[..., start : start + count]
            start += count
        return parts


@flax.struct.dataclass
class Coefficients:
    """The parts of a coefficient vector.

    Attributes:
        identity: (B,I) in standard deviations.
        expression: (B,E) in standard deviations.
        albedo: (B,A) in standard deviations.
        angles: (B,3) rad, pitch, yaw and roll about x, y, z; see `rotation`.
        light: (B,3,9) spherical-harmonics coefficients per channel, without the ambient term.
        translation: (B,3) dm.
    """

    identity: jax.Array
    expression: jax.Array
    albedo: jax.Array
    angles: jax.Array
    light: jax.Array
    translation: jax.Array


def split(vector: jax.Array, sizes: Sizes) -> Coefficients:
    """The parts of coefficient vectors (B,sizes.total), with lighting per channel."""
    parts = sizes.split(vector)
    light = parts["light"].reshape(vector.shape[0], -1, BANDS)
    return Coefficients(**{**parts, "light": jnp.broadcast_to(light, (vector.shape[0], 3, BANDS))})


@flax.struct.dataclass
class Decoded:
    """A posed and lit face.

    Attributes:
        vertices: (B,V,3) dm, camera space.
        albedo: (B,V,3) RGB, unclipped, 1 = white.
        colors: (B,V,3) albedo under the lighting, unclipped.
        normals: (B,V,3) unit normals, rotated with the head.
        landmarks: (B,68,2) px of the 224 px crop, y up.
    """

    vertices: jax.Array
    albedo: jax.Array
    colors: jax.Array
    normals: jax.Array
    landmarks: jax.Array


def _linear_model(mean: jax.Array, *terms: tuple[jax.Array, jax.Array]) -> jax.Array:
    """mean (…) plus, for each term, coefficients (B,M) times modes (M,…): (B,…)."""
    total = jnp.asarray(mean)
    for coefficients, modes in terms:
        total = total + jnp.tensordot(coefficients, modes, 1, precision="highest")
    return total


def canonical_shape(face: FaceModel, identity: jax.Array, expression: jax.Array) -> jax.Array:
    """Vertices (B,V,3) dm before rotation and translation."""
    return _linear_model(face.mean, (identity, face.identity), (expression, face.expression))


def canonical_landmarks(face: FaceModel, identity: jax.Array, expression: jax.Array) -> jax.Array:
    """The 68 landmarks (B,68,3) dm of `canonical_shape`, without computing the other vertices."""
    mean, identity_modes, expression_modes = (
        at_landmarks(face, part) for part in (face.mean, face.identity, face.expression)
    )
    return _linear_model(mean, (identity, identity_modes), (expression, expression_modes))


def rotation(angles: jax.Array) -> jax.Array:
    """Rotation matrices (B,3,3) = Rz Ry Rx of angles (B,3) rad; they act on column vectors."""
    (cx, cy, cz), (sx, sy, sz) = jnp.cos(angles).T, jnp.sin(angles).T
    rows = [
        [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
        [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
        [-sy, cy * sx, cy * cx],
    ]
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def rotate(points: jax.Array, matrices: jax.Array) -> jax.Array:
    """Points or normals (B,N,3) rotated by matrices (B,3,3)."""
    # A sum of products: on CPUs a matrix product this thin takes several times as long.
    return sum(points[..., axis, None] * matrices[:, None, :, axis] for axis in range(3))


def to_camera(points: jax.Array) -> jax.Array:
    """Camera-space points (…,3) of posed points (…,3) dm: z becomes the distance from the camera's plane."""
    return points.at[..., 2].set(CAMERA_DM - points[..., 2])


def project(points: jax.Array) -> jax.Array:
    """Pixels (…,2) of the 224 px crop, y up, of camera-space points (…,3) dm."""
    depth = points[..., 2:]
    depth = jnp.where(jnp.abs(depth) < MIN_DEPTH_DM, MIN_DEPTH_DM, depth)
    return CENTER_PX + FOCAL_PX * points[..., :2] / depth


def shade(albedo: jax.Array, normals: jax.Array, light: jax.Array) -> jax.Array:
    """Colours (B,V,3) of Lambertian surfaces under spherical-harmonics lighting and the ambient term.

    albedo (B,V,3), rotated unit normals (B,V,3), light (B,3,9).
    """
    light = light.at[:, :, 0].add(AMBIENT).swapaxes(-1, -2)
    return jax.vmap(lighting.sh_shade)(normals, light) * albedo


def decode(face: FaceModel, coefficients: Coefficients) -> Decoded:
    """The posed and lit face of coefficients. Source: models/bfm.py, compute_for_render."""
    shape = canonical_shape(face, coefficients.identity, coefficients.expression)
    albedo = _linear_model(face.albedo_mean, (coefficients.albedo, face.albedo))
    matrices = rotation(coefficients.angles)
    normals = rotate(mesh.batch_vertex_normals(shape, face.triangles, face.incidence), matrices)
    vertices = to_camera(rotate(shape, matrices) + coefficients.translation[:, None])
    colors = shade(albedo, normals, coefficients.light)
    return Decoded(vertices, albedo, colors, normals, project(at_landmarks(face, vertices)))


def project_landmarks(face: FaceModel, coefficients: Coefficients) -> jax.Array:
    """The landmarks (B,68,2) of `decode`, without computing the other vertices."""
    shape = canonical_landmarks(face, coefficients.identity, coefficients.expression)
    posed = rotate(shape, rotation(coefficients.angles)) + coefficients.translation[:, None]
    return project(to_camera(posed))


@flax.struct.dataclass
class Rendered:
    """Rendered images of side S.

    Attributes:
        image: (B,S,S,3) on black.
        depth: (B,S,S) dm, camera space; 0 on the background.
        covered: (B,S,S) bool, the face's silhouette.
        crop_mask: (B,S,S) bool, pixels of the photometric loss; see `FaceModel`.
    """

    image: jax.Array
    depth: jax.Array
    covered: jax.Array
    crop_mask: jax.Array


def to_pixels(vertices: jax.Array, size: int) -> jax.Array:
    """Pixels (…,2) of camera-space points (…,3) in an image of side `size`: x right, y down, centres at integers."""
    points = project(vertices) * jnp.array([1.0, -1.0]) + jnp.array([0.0, REFERENCE_SIZE])
    return points * (size / REFERENCE_SIZE) - 0.5


def render(face: FaceModel, decoded: Decoded, size: int = REFERENCE_SIZE, visibility: str = "platform") -> Rendered:
    """Renders faces into images of side `size` px.

    There is no antialiasing, so silhouettes have no gradient, as in the original's renderer. Triangles that cross the
    near or far plane are dropped; nvdiffrast clips them. `visibility`: see `raster.rasterize`.
    """
    render_one = functools.partial(_render_one, face, size=size, visibility=visibility)
    return jax.vmap(render_one)(decoded.vertices, decoded.colors)


def _render_one(face: FaceModel, vertices: jax.Array, colors: jax.Array, size: int, visibility: str) -> Rendered:
    points_px, depth = to_pixels(vertices, size), vertices[:, 2]
    # Depth 0 marks vertices outside the near and far planes: the rasteriser culls their triangles.
    clipped_depth = jnp.where((depth >= NEAR_DM) & (depth <= FAR_DM), depth, 0.0)

    def visible(triangles: jax.Array) -> jax.Array:
        return raster.rasterize(
            points_px, clipped_depth, triangles, size, size, near=NEAR_DM, visibility=visibility
        ).triangle_id

    triangle_id = visible(face.triangles)
    attributes = jnp.concatenate([colors, vertices[:, 2:]], -1)
    values = raster.interpolate(attributes, points_px, depth, face.triangles, triangle_id)
    covered = triangle_id >= 0
    if face.crop_triangles is None:
        crop_mask = covered & jnp.asarray(face.crop_triangle_mask)[jnp.maximum(triangle_id, 0)]
    else:
        crop_mask = visible(face.crop_triangles) >= 0
    return Rendered(values[..., :3], values[..., 3], covered, crop_mask)
