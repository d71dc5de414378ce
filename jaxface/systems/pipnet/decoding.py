"""From raw maps to landmarks: which neighbours vote for whom, and the merge of all votes.

Neighbours and their weights are found on the host, in float64: consecutive distances of published mean faces differ by
as little as 9e-11, and the order is part of a checkpoint's meaning. Source: lib/functions.py, `get_meanface` and
`forward_pip`.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxface.errors import UserError

MERGES = ("cyclic", "mean")


@flax.struct.dataclass
class Votes:
    """Who votes for landmark i: `index` (L,M) int32 into the L*N neighbour predictions, with `weight` (L,M).

    `own` (L,) is the weight of its own prediction. All weights of a landmark sum to 1; some of `index` may weigh 0.
    """

    index: jax.Array
    weight: jax.Array
    own: jax.Array


def check_meanface(meanface: tuple[float, ...], landmarks: int) -> np.ndarray:
    """The mean face (L,2) float64 of 2L numbers x0 y0 x1 y1 …. UserError: another length, not finite."""
    numbers = np.asarray(meanface, np.float64).ravel()
    if numbers.size != 2 * landmarks:
        raise UserError(
            f"the mean face has {numbers.size} numbers; {landmarks} landmarks need {2 * landmarks} "
            "(config.model.meanface, or --meanface FILE with one line x0 y0 x1 y1 …)"
        )
    if not np.isfinite(numbers).all():
        raise UserError("config.model.meanface holds numbers that are not finite")
    return numbers.reshape(-1, 2)


def neighbor_table(meanface: np.ndarray, count: int) -> np.ndarray:
    """The `count` nearest other points (L,count) of each point of `meanface` (L,2), the nearest first."""
    meanface = np.asarray(meanface, np.float64)
    squared = ((meanface[:, None] - meanface) ** 2).sum(-1)
    np.fill_diagonal(squared, -1.0)
    return np.argsort(squared, axis=1, kind="stable")[:, 1 : count + 1]


def voters(table: np.ndarray) -> list[np.ndarray]:
    """For each landmark the predictions about it: N*a + j for all a whose j-th neighbour it is, in that order.

    `table` (L,N). Raises UserError for a landmark that is nobody's neighbour.
    """
    flat = table.ravel()
    lists = [np.flatnonzero(flat == landmark) for landmark in range(len(table))]
    lonely = [landmark for landmark, found in enumerate(lists) if not len(found)]
    if lonely:
        raise UserError(
            f"landmark {lonely[0]} is nobody's neighbour with config.model.neighbors {table.shape[1]}, "
            "so no vote reaches it; raise the number of neighbours"
        )
    return lists


def votes(table: np.ndarray, merge: str = "cyclic") -> Votes:
    """How the predictions of `table` (L,N) are averaged.

    "cyclic", the original's: the list of each landmark's voters is repeated cyclically up to the longest list's length
    M, and the mean of these M and the landmark's own prediction is taken, so that its own weighs 1/(M+1) and early
    voters one repetition more than late ones. (The original gives up where M exceeds eleven times a list; here it is
    repeated on.) "mean", ours: the plain mean of its own prediction and each vote once. UserError: another name, a
    landmark without votes.
    """
    if merge not in MERGES:
        raise UserError(f"config.model.merge is {merge!r}; choose one of {', '.join(MERGES)}")
    lists = voters(table)
    longest = max(map(len, lists))
    index = np.stack([np.resize(found, longest) for found in lists]).astype(np.int32)
    counts = np.array([longest if merge == "cyclic" else len(found) for found in lists])
    used = np.arange(longest) < counts[:, None]
    own = 1 / (counts + 1)
    return Votes(index, np.float32(used * own[:, None]), np.float32(own))


def decode(maps: dict[str, jax.Array], votes: Votes) -> dict[str, jax.Array]:
    """Landmarks of raw maps (`model.PIPNet`), in crop units: x over the crop's width, y over its height.

    A landmark lies in the cell of its highest score (the first in row order if there are several), at the offset there;
    its neighbours at their offsets from the same cell. `landmarks` (B,L,2) is the merge by `votes`, `landmarks_own`
    (B,L,2) the own prediction, `neighbors` (B,L,N,2), `scores` (B,L) the highest score, `cell` (B,L) int32 its place
    g*row + column, and `spread` (B,L), ours: the weighted root mean square distance of all votes from the merge.
    """
    batch, height, width, count = maps["cls"].shape
    scores = maps["cls"].reshape(batch, height * width, count)
    cell = jnp.argmax(scores, axis=1)
    corner = jnp.stack([cell % width, cell // width], -1)
    size = jnp.array([width, height], jnp.float32)
    own = (corner + _at(maps, ("x", "y"), cell)[:, :, 0]) / size
    neighbors = (corner[:, :, None] + _at(maps, ("nb_x", "nb_y"), cell)) / size
    voted = neighbors.reshape(batch, -1, 2)[:, votes.index]
    weight = votes.weight[..., None]
    merged = own * votes.own[:, None] + (voted * weight).sum(2)
    spread = ((own - merged) ** 2).sum(-1) * votes.own
    spread += (((voted - merged[:, :, None]) ** 2) * weight).sum((2, 3))
    return {
        "landmarks": merged,
        "landmarks_own": own,
        "neighbors": neighbors,
        "scores": jnp.take_along_axis(scores, cell[:, None], 1)[:, 0],
        "cell": cell,
        "spread": jnp.sqrt(spread),
    }


def _at(maps: dict[str, jax.Array], names: tuple[str, str], cell: jax.Array) -> jax.Array:
    """Values (B,L,n,2) of two maps (B,g,g,L*n) in each landmark's cell (B,L)."""
    return jnp.stack([gather(maps[name], cell) for name in names], -1)


def gather(values: jax.Array, cell: jax.Array) -> jax.Array:
    """Values (B,L,n) of a map (B,h,w,L*n) in each landmark's cell (B,L)."""
    batch, count = cell.shape
    return jnp.take_along_axis(values.reshape(batch, -1, count, values.shape[-1] // count), cell[:, None, :, None], 1)[
        :, 0
    ]


def confidence(scores: np.ndarray) -> np.ndarray:
    """Ours: scores (…) clipped to [0,1]; they are trained towards 1 where a landmark is, and 0 elsewhere."""
    return np.clip(scores, 0.0, 1.0)
