"""Query deformer: a light network that moves any query to the convention of a data set.

Chandran et al., Infinite 3D Landmarks, CGF 2024, "semantic correction". Unlike learned offsets (`query_table`), which
belong to the points of one layout, it moves every point. The paper leaves its size open.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxface.layouts import MIRROR_X
from jaxface.nn.mlp import MLP
from jaxface.system import Tree

# Name of its parameters.
DEFORMER = "deformer"
CODE_WIDTH, WIDTH = 16, 64


class DeformerNet(nn.Module):
    """Displacements (B,Q,3) of queries (B,Q,3) for the data sets (B,) of `count`: zero when initialised.

    A displacement is the mean of that of the query and the mirrored one of the mirrored query, so that mirrored images
    have mirrored displacements.
    """

    count: int

    @nn.compact
    def __call__(self, queries: jax.Array, dataset: jax.Array) -> jax.Array:
        code = nn.Embed(self.count, CODE_WIDTH, name="code")(dataset)[:, None]
        hidden, last = MLP((WIDTH, WIDTH), name="mlp"), nn.Dense(3, kernel_init=nn.initializers.zeros, name="last")

        def displacement(queries: jax.Array) -> jax.Array:
            codes = jnp.broadcast_to(code, (*queries.shape[:2], CODE_WIDTH))
            return last(hidden(jnp.concatenate([queries, codes], axis=-1)))

        mirror = jnp.asarray(MIRROR_X, jnp.float32)
        return (displacement(queries) + mirror * displacement(mirror * queries)) / 2


@dataclasses.dataclass(frozen=True)
class Deformer:
    """The query deformer of a configuration.

    Attributes:
        names: "NAME[/variant]" of the data sets, in the order in which batches number them.
        learned: whether the queries of each data set move; those of the reference do not.
    """

    names: tuple[str, ...]
    learned: tuple[bool, ...]

    def init(self, key: jax.Array) -> Tree:
        """Its parameters, with which no query moves."""
        return self._net.init(key, jnp.zeros((1, 1, 3)), jnp.zeros(1, jnp.int32))["params"]

    def displacements(self, params: Tree, queries: jax.Array, dataset: jax.Array) -> jax.Array:
        """Displacements (B,Q,3) of queries (B,Q,3) of images of the data sets `dataset` (B,)."""
        moved = self._net.apply({"params": params[DEFORMER]}, queries, dataset)
        return moved * jnp.asarray(self.learned, jnp.float32)[dataset][:, None, None]

    def of_dataset(self, params: Tree, dataset: str, points: np.ndarray) -> jax.Array:
        """Displacements (K,3) of template points (K,3) in the convention of a data set; zeros if it was not trained."""
        if dataset not in self.names:
            return jnp.zeros_like(points)
        number = jnp.array([self.names.index(dataset)])
        return self.displacements(params, jnp.asarray(points)[None], number)[0]

    @property
    def _net(self) -> DeformerNet:
        return DeformerNet(len(self.names))
