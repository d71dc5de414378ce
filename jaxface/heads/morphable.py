"""Linear morphable head model with named modes, landmarks and regions: the common type of all head models.

Frame: millimetres, x to the subject's left, y up, z out of the face, origin inside the head, midway between the ears.
V vertices, T triangles, I identity, E expression and A albedo modes, K landmarks of a layout.
"""

from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray

TRANSPARENT = "transparent"


@flax.struct.dataclass
class MorphableHead:
    """Morphable head: geometry = template + identity + expression modes, albedo = mean + modes. A pytree of arrays.

    Attributes:
        template: (V,3) mm.
        triangles: (T,3) int32, counter-clockwise from outside.
        identity: (I,V,3) mm per standard deviation.
        expression: (E,V,3) mm at weight 1; weights of blend shapes lie in [0,1], those of statistical modes are signed.
        albedo_mean: (V,3) sRGB in [0,1].
        albedo: (A,V,3) sRGB per standard deviation.
        mirror: (V,) int32, mirror image of each vertex under x -> -x, an involution.
        landmarks: layout ("68", "98") -> (vertices (K,3) int32, barycentric weights (K,3)).
        regions: name -> (V,) bool. Every head has face, scalp, neck, ears, lips, eyeball_L, eyeball_R, iris_L, iris_R,
            mouth (oral cavity, teeth, tongue) and transparent (lashes, tear fluid; not rendered, may be empty). Heads
            with cavities behind the eyeballs have socket.
        name, identity_names, expression_names, albedo_names: names of the head and of its modes.
        direction_names, directions: names (D) and identity coefficients (D,I) of edits, e.g. age or nose width, per
            standard deviation of the attribute among people. Empty for heads without named attributes.
        uv, uv_triangles: (U,2) texture coordinates in [0,1], v up, and (T,3) int32 their indices; None without texture.
    """

    template: Array
    triangles: Array
    identity: Array
    expression: Array
    albedo_mean: Array
    albedo: Array
    mirror: Array
    landmarks: Mapping[str, tuple[Array, Array]]
    regions: Mapping[str, Array]
    name: str = flax.struct.field(pytree_node=False)
    identity_names: tuple[str, ...] = flax.struct.field(pytree_node=False)
    expression_names: tuple[str, ...] = flax.struct.field(pytree_node=False)
    albedo_names: tuple[str, ...] = flax.struct.field(pytree_node=False)
    direction_names: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())
    directions: Array | None = None
    uv: Array | None = None
    uv_triangles: Array | None = None

    def shape(self, identity: Array, expression: Array) -> jax.Array:
        """Vertices (…,V,3) mm for identity coefficients (…,I) and expression weights (…,E)."""
        posed = jnp.tensordot(identity, self.identity, 1) + jnp.tensordot(expression, self.expression, 1)
        return self.template + posed

    def colors(self, albedo: Array) -> jax.Array:
        """Vertex albedo (…,V,3), unclipped sRGB, for coefficients (…,A)."""
        return self.albedo_mean + jnp.tensordot(albedo, self.albedo, 1)

    def landmark_points(self, vertices: Array, layout: str) -> Array:
        """Landmarks (…,K,D) of a layout on `vertices` (…,V,D), numpy or JAX. Raises KeyError for an unknown layout."""
        if layout not in self.landmarks:
            raise KeyError(f"head {self.name!r} has no layout {layout!r}; it has {sorted(self.landmarks)}")
        index, weights = self.landmarks[layout]
        return (vertices[..., index, :] * weights[..., None]).sum(-2)

    def expression_weights(self, **weights: float) -> np.ndarray:
        """Weight vector (E,) from names, e.g. `jawOpen=0.5`. Raises ValueError for an unknown expression."""
        unknown = set(weights) - set(self.expression_names)
        if unknown:
            raise ValueError(f"head {self.name!r} has no expression {sorted(unknown)}; it has {self.expression_names}")
        return np.array([weights.get(name, 0.0) for name in self.expression_names], np.float32)

    def identity_direction(self, **amounts: float) -> np.ndarray:
        """Identity coefficients (I,) of an edit by attribute, e.g. `age=1.5`, in standard deviations.

        Raises ValueError for an unknown attribute.
        """
        unknown = set(amounts) - set(self.direction_names)
        if unknown:
            raise ValueError(f"head {self.name!r} has no attribute {sorted(unknown)}; it has {self.direction_names}")
        rows = [amount * self.directions[self.direction_names.index(name)] for name, amount in amounts.items()]
        return np.sum(rows, axis=0) if rows else np.zeros(len(self.identity_names), np.float32)

    def opaque_triangles(self) -> np.ndarray:
        """Triangles (T',3) int32 that do not touch the region `transparent`."""
        triangles = np.asarray(self.triangles)
        return triangles[~np.asarray(self.regions[TRANSPARENT])[triangles].any(axis=1)]


def rotate_eyes(head: MorphableHead, vertices: Array, gaze: Array) -> jax.Array:
    """Vertices (V,3) with both eyeballs rotated by `gaze` (2,) rad: towards the subject's left, and up.

    They turn about the centre of the sphere on which they lie; often only its front is modelled.
    """
    left, up = gaze[0], gaze[1]
    yaw = jnp.array([[jnp.cos(left), 0, jnp.sin(left)], [0, 1, 0], [-jnp.sin(left), 0, jnp.cos(left)]])
    pitch = jnp.array([[1, 0, 0], [0, jnp.cos(up), jnp.sin(up)], [0, -jnp.sin(up), jnp.cos(up)]])
    for side in ("eyeball_L", "eyeball_R"):
        inside = jnp.asarray(head.regions[side])[:, None]
        middle = (vertices * inside).sum(0) / inside.sum()
        offset = (vertices - middle) * inside
        # Least squares of |offset - c| = radius.
        center = middle + jnp.linalg.solve(2.0 * offset.T @ offset, (offset**2).sum(-1) @ offset)
        rotated = (vertices - center) @ (yaw @ pitch).T + center
        vertices = jnp.where(inside, rotated, vertices)
    return vertices
