"""The one type behind every head: a linear morphable model with named modes, landmarks and regions.

Frame: millimetres, x to the subject's left, y up, z out of the face, origin inside the head midway between the ears.
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
    """A head: template + identity and expression modes (geometry), mean + modes (albedo). A pytree of arrays.

    template (V,3) mm; triangles (T,3) int32, counter-clockwise seen from outside.
    identity (I,V,3) mm per standard deviation; expression (E,V,3) mm at weight 1, weights lie in [0,1].
    albedo_mean (V,3) and albedo (A,V,3): sRGB in [0,1], modes per standard deviation.
    mirror (V,) int32: index of each vertex's mirror image under x -> -x, an involution.
    landmarks: layout ("68", "98") -> (vertices (K,3) int32, weights (K,3)): points of the surface in barycentric form.
    regions: name -> bool (V,). Every head names face, scalp, neck, ears, lips, eyeball_L, eyeball_R, iris_L, iris_R,
    mouth (what is inside: bag, teeth, tongue) and transparent (lashes, fluid: not rendered; may be all False); heads
    with a hollow behind the eyeballs name it socket.
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

    def shape(self, identity: Array, expression: Array) -> jax.Array:
        """Vertices (…,V,3) mm of identity coefficients (…,I) and expression weights (…,E)."""
        posed = jnp.tensordot(identity, self.identity, 1) + jnp.tensordot(expression, self.expression, 1)
        return self.template + posed

    def colors(self, albedo: Array) -> jax.Array:
        """Vertex albedo (…,V,3), sRGB, unclipped, of coefficients (…,A)."""
        return self.albedo_mean + jnp.tensordot(albedo, self.albedo, 1)

    def landmark_points(self, vertices: Array, layout: str) -> Array:
        """The points (…,K,D) of a layout on `vertices` (…,V,D), numpy or JAX. KeyError names the layouts there are."""
        if layout not in self.landmarks:
            raise KeyError(f"head {self.name!r} has no layout {layout!r}; it has {sorted(self.landmarks)}")
        index, weights = self.landmarks[layout]
        return (vertices[..., index, :] * weights[..., None]).sum(-2)

    def expression_weights(self, **weights: float) -> np.ndarray:
        """A weight vector (E,) from names, e.g. `jawOpen=0.5`. ValueError names an unknown expression."""
        unknown = set(weights) - set(self.expression_names)
        if unknown:
            raise ValueError(f"head {self.name!r} has no expression {sorted(unknown)}; it has {self.expression_names}")
        return np.array([weights.get(name, 0.0) for name in self.expression_names], np.float32)

    def opaque_triangles(self) -> np.ndarray:
        """Triangles (T',3) int32 without those that touch the region `transparent`."""
        triangles = np.asarray(self.triangles)
        return triangles[~np.asarray(self.regions[TRANSPARENT])[triangles].any(axis=1)]


def turn_eyes(head: MorphableHead, vertices: Array, gaze: Array) -> jax.Array:
    """Vertices (V,3) with both eyeballs turned by `gaze` (2,) radians: to the subject's left, and up."""
    left, up = gaze[0], gaze[1]
    yaw = jnp.array([[jnp.cos(left), 0, jnp.sin(left)], [0, 1, 0], [-jnp.sin(left), 0, jnp.cos(left)]])
    pitch = jnp.array([[1, 0, 0], [0, jnp.cos(up), jnp.sin(up)], [0, -jnp.sin(up), jnp.cos(up)]])
    for side in ("eyeball_L", "eyeball_R"):
        inside = jnp.asarray(head.regions[side])[:, None]
        center = (vertices * inside).sum(0) / inside.sum()
        turned = (vertices - center) @ (yaw @ pitch).T + center
        vertices = jnp.where(inside, turned, vertices)
    return vertices
