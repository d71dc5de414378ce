"""Random points on the surface of regions of a head."""

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxface.heads.morphable import MorphableHead

# Random surface points of a region relative to those of others besides the face: a region with both ears is the least
# accurate of those that photos usually show.
SHARES = {"ears": 4.0}


@flax.struct.dataclass
class RegionTriangles:
    """Triangles of R regions, one region after the other.

    Attributes:
        triangles: (N,3) int32 vertices.
        first: (R,) int32, the first triangle of each region.
        count: (R,) int32, its number of triangles.
        cumulative: (R,) cumulative shares of the regions among the points that are drawn.
    """

    triangles: jax.Array | np.ndarray
    first: jax.Array | np.ndarray
    count: jax.Array | np.ndarray
    cumulative: jax.Array | np.ndarray


def region_triangles(head: MorphableHead, regions: Sequence[str] = ("face",)) -> RegionTriangles:
    """The triangles of regions of a head, for `surface_points`; call it once, on the host.

    The face gets half of the points if there are other regions, and these share the rest by `SHARES`.

    Args:
        head: from `scenes.renderable`.
        regions: names of regions; those without triangles are left out.
    """
    triangles = np.asarray(head.triangles)
    parts = {name: triangles[np.asarray(head.regions[name])[triangles].all(-1)] for name in regions}
    parts = {name: part for name, part in parts.items() if len(part)}
    shares = np.array([SHARES.get(name, 1.0) for name in parts])
    if "face" in parts and len(parts) > 1:
        face = list(parts).index("face")
        shares[face] = np.delete(shares, face).sum()
    counts = np.array([len(part) for part in parts.values()], np.int32)
    return RegionTriangles(
        triangles=np.concatenate(list(parts.values())).astype(np.int32),
        first=(np.cumsum(counts) - counts).astype(np.int32),
        count=counts,
        cumulative=(np.cumsum(shares) / shares.sum()).astype(np.float32),
    )


def surface_points(regions: RegionTriangles, key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Random points of regions, as (vertex indices (count,3) int32, barycentric weights (count,3)).

    Triangles of a region are chosen uniformly, whatever their area.
    """
    triangle_key, weights_key = jax.random.split(key)
    place = jax.random.uniform(jax.random.fold_in(triangle_key, 1), (count,))
    region = jnp.searchsorted(jnp.asarray(regions.cumulative)[:-1], place, side="right")
    number = jax.random.randint(triangle_key, (count,), 0, jnp.asarray(regions.count)[region])
    chosen = jnp.asarray(regions.triangles)[jnp.asarray(regions.first)[region] + number]
    return chosen, jax.random.dirichlet(weights_key, jnp.ones(3), (count,))
