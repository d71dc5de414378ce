"""A reader of R-Net's maps for short trainings, ours: it looks for landmarks and fits the face to them.

The paper regresses all coefficients from one pooled vector, so that a network has to learn from examples how a turned
head projects. Here known geometry does it: each landmark has an attention over the map, taught as a heat map (after
integral regression, Sun et al., ECCV 2018), and two Gauss-Newton steps give the identity, expression and pose that are
most probable under the landmarks, as observation, and under what an MLP made of all that was read, as a prior.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxface.geometry.map_estimate import Observation, map_shape_and_pose
from jaxface.nn.batch_norm import BatchNorm
from jaxface.nn.convolution import Conv
from jaxface.systems.deep3d.face_model import FaceModel, at_landmarks
from jaxface.systems.deep3d.networks import dense_points
from jaxface.systems.deep3d.rendering import image_formation
from jaxface.systems.deep3d.rendering.image_formation import CENTER_PX, Sizes

NAME, COLLECTION = "fit", "face"
WIDTH, READ, HIDDEN = 96, 8, 384
STEPS = 2
# First deviations of a landmark in pixels of the 224 px crop, and of the prior: coefficients, radians and decimetres.
LANDMARK_PX, IDENTITY, EXPRESSION, POSE = 2.0, 1.0, 1.4, 0.1
# How much of the scatter of an attention is believed to be a landmark's own, at first.
SCATTER = 0.25


class Reader(nn.Module):
    """Maps of a backbone, each half as large as the one before, to what is read of them.

    Returns features (B,HIDDEN), K = `count` points (B,K,2), the 68 landmarks first, in pixels of the 224 px crop with y
    up, and the covariance (B,K,2,2) px² of each one's attention, whose logarithm (B,h*w,K) is sown as "log_attention".
    """

    count: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, maps: list[jax.Array], train: bool = False) -> tuple[jax.Array, jax.Array, jax.Array]:
        seen = nn.Dense(WIDTH, name=f"reduce{len(maps) - 1}")(maps[-1])
        for number in reversed(range(len(maps) - 1)):
            finer = nn.Dense(WIDTH, name=f"reduce{number}")(maps[number])
            seen = finer + jax.image.resize(seen, finer.shape, "linear")
            if number:
                merged = Conv(WIDTH, 3, use_bias=False, name=f"merge{number}")(nn.relu(seen))
                seen += nn.relu(BatchNorm(self.axis_name, name=f"norm{number}")(merged, train))
        batch, side = seen.shape[:2]
        cells = nn.relu(seen).reshape(batch, -1, WIDTH)
        log_attention = nn.log_softmax(nn.Dense(self.count, name="attention")(cells), axis=1)
        self.sow("intermediates", "log_attention", log_attention)
        places = cell_places(side) - CENTER_PX
        moments = jnp.concatenate([places, (places[:, :, None] * places[:, None]).reshape(-1, 4)], -1)
        moments = jnp.broadcast_to(moments, (batch, *moments.shape))
        values = jnp.concatenate([moments, nn.Dense(READ, name="value")(cells)], -1)
        found = jnp.einsum("btk,btc->bkc", jnp.exp(log_attention), values)
        points, squares, read = jnp.split(found, [2, 6], axis=-1)
        covariance = squares.reshape(*points.shape, 2) - points[..., None] * points[..., None, :]
        seen = [(points / CENTER_PX).reshape(batch, -1), read.reshape(batch, -1), maps[-1].mean((1, 2))]
        x = nn.gelu(nn.Dense(HIDDEN, name="hidden1")(nn.LayerNorm(name="hidden_norm1")(jnp.concatenate(seen, -1))))
        x += nn.gelu(nn.Dense(HIDDEN, name="hidden2")(nn.LayerNorm(name="hidden_norm2")(x)))
        return x, points + CENTER_PX, covariance


def cell_places(side: int) -> jax.Array:
    """Centres (side*side,2) of a map's cells, row by row, as landmarks are given: in the 224 px crop, y up."""
    line = (jnp.arange(side) + 0.5) * (2 * CENTER_PX / side)
    x, y = jnp.meshgrid(line, line[::-1])
    return jnp.stack([x, y], -1).reshape(-1, 2)


class Fit(nn.Module):
    """The coefficients that explain landmarks and stay near a prior guess: maximum a posteriori.

    `guess` (B,I+E+6): identity, expression, angles and translation. points (B,K,2) px and their covariance (B,K,2,2) as
    of `Reader`: what lies on an outline is seen well across it only. How much each point and each coefficient is
    trusted is learned. The face's points are constants of the model, in the collection "face" (see `points_model`).
    Where the fitted face has them (B,K,2) is sown as "points", all that was believed as "observation".
    """

    sizes: Sizes

    @nn.compact
    def __call__(self, guess: jax.Array, points: jax.Array, covariance: jax.Array) -> jax.Array:
        modes, count = self.sizes.identity + self.sizes.expression, points.shape[1]
        mean = self.variable(COLLECTION, "mean", jnp.zeros, (count, 3)).value
        basis = self.variable(COLLECTION, "modes", jnp.zeros, (modes, count, 3)).value
        deviation = self.param("log_deviation", nn.initializers.constant(np.log(LANDMARK_PX)), (count,))
        first = np.repeat([IDENTITY, EXPRESSION, POSE], [self.sizes.identity, self.sizes.expression, 6])
        precision = self.param("log_precision", lambda key: -jnp.log(jnp.float32(first)))
        scatter = self.param("log_scatter", nn.initializers.constant(np.log(SCATTER)), (count,))
        noise = jnp.exp(2 * scatter)[:, None, None] * covariance + jnp.exp(2 * deviation)[:, None, None] * jnp.eye(2)

        observation = Observation(guess, jnp.broadcast_to(jnp.exp(precision), guess.shape), points, _whitening(noise))
        with jax.default_matmul_precision("highest"):
            found, seen = jax.vmap(lambda one: map_shape_and_pose(place, mean, basis, one, STEPS))(observation)
        self.sow("intermediates", "points", seen)
        self.sow("intermediates", "observation", observation)
        return found


def _whitening(covariance: jax.Array) -> jax.Array:
    """Matrices (…,2,2) under which noise of a positive definite covariance (…,2,2) becomes that of unit deviation."""
    first = jnp.sqrt(covariance[..., 0, 0])
    across = covariance[..., 0, 1] / first
    second = jnp.sqrt(covariance[..., 1, 1] - across**2)
    rows = [[1 / first, jnp.zeros_like(first)], [-across / (first * second), 1 / second]]
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def place(pose: jax.Array, point: jax.Array) -> jax.Array:
    """Pixels (2,) of a point (3,) dm of a face with pose (6,): angles and translation."""
    return image_formation.project(image_formation.to_camera(posed(pose, point)))


def posed(pose: jax.Array, point: jax.Array) -> jax.Array:
    """A point (3,) dm of a face under a pose (6,)."""
    return image_formation.rotation(pose[None, :3])[0] @ point + pose[3:]


def points_model(face: FaceModel, count: int) -> dict[str, jax.Array]:
    """The collection "face" of `Fit`: 68 landmarks and `count` dense points, mean (K,3) dm and modes (I+E,K,3)."""
    also = dense_points.select_vertices(face, count)
    mean, identity, expression = (
        jnp.concatenate([at_landmarks(face, part), jnp.asarray(part)[..., also, :]], -2)
        for part in (face.mean, face.identity, face.expression)
    )
    return {"mean": mean, "modes": jnp.concatenate([identity, expression])}
