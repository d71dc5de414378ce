"""Decoding of PIPNet's raw maps: each landmark's own prediction, its neighbours' votes and their weighted mean (§3.2).

The neighbour table is computed on the host in float64: consecutive distances of published mean faces differ by as
little as 9e-11, and the order of the neighbours is part of a checkpoint's meaning. Source: lib/functions.py,
`get_meanface` and `forward_pip`.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxface.errors import UserError

MERGES = ("cyclic", "mean")


@flax.struct.dataclass
class Votes:
    """Weights with which predictions are averaged. The weights of each landmark sum to 1.

    Attributes:
        index: (L,M) int32, the votes for each landmark as indices into the L*N neighbour predictions; padding has
            weight 0.
        weight: (L,M), weights of the votes.
        own_weight: (L,), weights of the landmarks' own predictions.
    """

    index: jax.Array
    weight: jax.Array
    own_weight: jax.Array


def check_meanface(meanface: tuple[float, ...], landmarks: int) -> np.ndarray:
    """The mean face (L,2) float64 of 2L numbers x0 y0 x1 y1 ….

    Raises UserError if the number of values differs or a value is not finite.
    """
    values = np.asarray(meanface, np.float64).ravel()
    if values.size != 2 * landmarks:
        raise UserError(
            f"config.model.meanface has {values.size} numbers; {landmarks} landmarks need {2 * landmarks} "
            "(set it, or pass --meanface FILE with one line x0 y0 x1 y1 …)"
        )
    if not np.isfinite(values).all():
        raise UserError("config.model.meanface contains values that are not finite; correct them")
    return values.reshape(-1, 2)


def neighbor_table(meanface: np.ndarray, count: int) -> np.ndarray:
    """Indices (L,count) of the nearest other points of each point of `meanface` (L,2), by increasing distance."""
    meanface = np.asarray(meanface, np.float64)
    squared_distance = ((meanface[:, None] - meanface) ** 2).sum(-1)
    np.fill_diagonal(squared_distance, -1.0)
    return np.argsort(squared_distance, axis=1, kind="stable")[:, 1 : count + 1]


def voters(table: np.ndarray) -> list[np.ndarray]:
    """For each landmark, the indices N*a + j of its votes: it is the j-th neighbour of landmark a.

    `table` (L,N) holds the neighbours. Raises UserError if a landmark is not a neighbour of any other.
    """
    neighbors = table.ravel()
    by_landmark = [np.flatnonzero(neighbors == landmark) for landmark in range(len(table))]
    without_votes = [landmark for landmark, indices in enumerate(by_landmark) if not len(indices)]
    if without_votes:
        raise UserError(
            f"config.model.neighbors is {table.shape[1]}: landmark {without_votes[0]} is not a neighbour of any other "
            "and gets no votes; use more neighbours"
        )
    return by_landmark


def votes(table: np.ndarray, merge: str = "cyclic") -> Votes:
    """Weights of all predictions of each landmark, for neighbours `table` (L,N).

    "cyclic" is the original's average: the list of each landmark's voters is repeated cyclically up to the longest
    list's length M, and these M votes and the own prediction are averaged. The own prediction thus has weight 1/(M+1),
    and early voters are counted once more than late ones. (The original fails where M exceeds eleven times a list's
    length; here the list is repeated further.) "mean" (ours) is the mean of the own prediction and each vote once.

    Raises UserError for another name, or a landmark without votes.
    """
    if merge not in MERGES:
        raise UserError(f"config.model.merge is {merge!r}; choose one of {', '.join(MERGES)}")
    by_landmark = voters(table)
    longest = max(map(len, by_landmark))
    index = np.stack([np.resize(indices, longest) for indices in by_landmark]).astype(np.int32)
    counts = np.array([longest if merge == "cyclic" else len(indices) for indices in by_landmark])
    counted = np.arange(longest) < counts[:, None]
    own_weight = 1 / (counts + 1)
    return Votes(index, np.float32(counted * own_weight[:, None]), np.float32(own_weight))


def decode(maps: dict[str, jax.Array], votes: Votes) -> dict[str, jax.Array]:
    """Landmarks from raw maps, in crop units: x in crop widths, y in crop heights.

    A landmark lies in the cell of its highest score (the first in row order if several are equal), at the offset
    predicted there; its neighbours at their offsets from the same cell.

    Args:
        maps: output of `model.PIPNet`.
        votes: weights of the neighbours' votes.

    Returns:
        `landmarks` (B,L,2): weighted mean of own prediction and votes. `landmarks_own` (B,L,2): own prediction.
        `neighbors` (B,L,N,2): predicted neighbours. `scores` (B,L): highest score, unbounded. `cell` (B,L) int32: its
        cell, g*row + column. `spread` (B,L), ours: weighted root mean square distance of all votes from `landmarks`.
    """
    batch, height, width, count = maps["cls"].shape
    scores = maps["cls"].reshape(batch, height * width, count)
    cell = jnp.argmax(scores, axis=1)
    corner = jnp.stack([cell % width, cell // width], -1)
    size = jnp.array([width, height], jnp.float32)
    own = (corner + _offsets_at(maps, ("x", "y"), cell)[:, :, 0]) / size
    neighbors = (corner[:, :, None] + _offsets_at(maps, ("nb_x", "nb_y"), cell)) / size
    voted = neighbors.reshape(batch, -1, 2)[:, votes.index]
    weight = votes.weight[..., None]
    merged = own * votes.own_weight[:, None] + (voted * weight).sum(2)
    variance = ((own - merged) ** 2).sum(-1) * votes.own_weight
    variance += (((voted - merged[:, :, None]) ** 2) * weight).sum((2, 3))
    return {
        "landmarks": merged,
        "landmarks_own": own,
        "neighbors": neighbors,
        "scores": jnp.take_along_axis(scores, cell[:, None], 1)[:, 0],
        "cell": cell,
        "spread": jnp.sqrt(variance),
    }


def _offsets_at(maps: dict[str, jax.Array], names: tuple[str, str], cell: jax.Array) -> jax.Array:
    """Offsets (B,L,n,2) of two maps (B,g,g,L*n) in each landmark's cell (B,L)."""
    return jnp.stack([gather(maps[name], cell) for name in names], -1)


def gather(values: jax.Array, cell: jax.Array) -> jax.Array:
    """Values (B,L,n) of a map (B,h,w,L*n) in each landmark's cell (B,L)."""
    batch, count = cell.shape
    by_cell = values.reshape(batch, -1, count, values.shape[-1] // count)
    return lax.platform_dependent(by_cell, cell, cpu=_gather_rows, default=_sum_of_one)


def _gather_rows(by_cell: jax.Array, cell: jax.Array) -> jax.Array:
    """Values (B,L,n) of (B,cells,L,n) in cells (B,L)."""
    return jnp.take_along_axis(by_cell, cell[:, None, :, None], 1)[:, 0]


def _sum_of_one(by_cell: jax.Array, cell: jax.Array) -> jax.Array:
    """As `_gather_rows`, and exactly equal: a sum in which one cell counts. TPUs gather, and scatter, serially."""
    chosen = jnp.arange(by_cell.shape[1])[:, None] == cell[:, None]
    return jnp.where(chosen[..., None], by_cell, 0.0).sum(1)


def confidence(scores: np.ndarray) -> np.ndarray:
    """Confidence in [0,1] (ours): clipped scores (…), which are trained to be 1 at the landmark and 0 elsewhere."""
    return np.clip(scores, 0.0, 1.0)
