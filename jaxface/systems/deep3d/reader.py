"""A reader of R-Net's maps for short trainings, ours: it looks for the 68 landmarks and fits the face to them.

The paper regresses all coefficients from one pooled vector, so that a network has to learn from examples how a turned
head projects. Here known geometry does it: each landmark has an attention over the map, taught as a heat map (after
integral regression, Sun et al., ECCV 2018), and two Gauss-Newton steps give the identity, expression and pose that are
most probable under the landmarks, as evidence, and under what an MLP made of all that was read, as a prior.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxface.geometry.posterior import most_probable
from jaxface.systems.deep3d import formation
from jaxface.systems.deep3d.face_model import FaceModel, at_landmarks
from jaxface.systems.deep3d.formation import CENTER_PX, Sizes

NAME, COLLECTION = "fit", "face"
LANDMARKS = 68
WIDTH, READ, HIDDEN = 96, 8, 384
STEPS = 2
# First deviations of a landmark in pixels of the 224 px crop, and of the prior: coefficients, radians and decimetres.
LANDMARK_PX, IDENTITY, EXPRESSION, POSE = 3.0, 1.0, 1.4, 0.1
# An attention is trusted half as much where it scatters by about this.
SCATTER_PX = 14.0


class Reader(nn.Module):
    """Maps of a backbone, each half as large as the one before, to what is read of them; the first is left out.

    Returns features (B,HIDDEN), the landmarks (B,68,2) in pixels of the 224 px crop with y up, and the variance (B,68)
    px² of each one's attention, whose logarithm (B,h*w,68) is sown as "log_attention".
    """

    @nn.compact
    def __call__(self, maps: list[jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        seen = nn.Dense(WIDTH, name="reduce1")(maps[1])
        for number, coarse in enumerate(maps[2:], start=2):
            seen += jax.image.resize(nn.Dense(WIDTH, name=f"reduce{number}")(coarse), seen.shape, "linear")
        batch, side = seen.shape[:2]
        cells = nn.relu(seen).reshape(batch, -1, WIDTH)
        log_attention = nn.log_softmax(nn.Dense(LANDMARKS, name="attention")(cells), axis=1)
        self.sow("intermediates", "log_attention", log_attention)
        attention, places = jnp.exp(log_attention), cell_places(side)
        points = jnp.einsum("btk,tc->bkc", attention, places)
        variance = jnp.einsum("btk,tc->bkc", attention, places**2) - points**2
        read = jnp.einsum("btk,btc->bkc", attention, nn.Dense(READ, name="value")(cells))
        seen = [(points / CENTER_PX - 1).reshape(batch, -1), read.reshape(batch, -1), maps[-1].mean((1, 2))]
        x = nn.gelu(nn.Dense(HIDDEN, name="hidden1")(nn.LayerNorm(name="norm1")(jnp.concatenate(seen, -1))))
        x += nn.gelu(nn.Dense(HIDDEN, name="hidden2")(nn.LayerNorm(name="norm2")(x)))
        return x, points, variance.sum(-1)


def cell_places(side: int) -> jax.Array:
    """Centres (side*side,2) of a map's cells, row by row, as landmarks are given: in the 224 px crop, y up."""
    line = (jnp.arange(side) + 0.5) * (2 * CENTER_PX / side)
    x, y = jnp.meshgrid(line, line[::-1])
    return jnp.stack([x, y], -1).reshape(-1, 2)


class Fit(nn.Module):
    """The coefficients that explain landmarks and stay near a prior guess: maximum a posteriori.

    `guess` (B,I+E+6): identity, expression, angles and translation. points (B,68,2) px and their variance (B,68) as of
    `Reader`. How much each landmark and each coefficient is trusted is learned. The face's landmarks are constants of
    the model, in the collection "face" (see `landmark_model`).
    """

    sizes: Sizes

    @nn.compact
    def __call__(self, guess: jax.Array, points: jax.Array, variance: jax.Array) -> jax.Array:
        modes = self.sizes.identity + self.sizes.expression
        mean = self.variable(COLLECTION, "mean", jnp.zeros, (LANDMARKS, 3)).value
        basis = self.variable(COLLECTION, "modes", jnp.zeros, (modes, LANDMARKS, 3)).value
        deviation = self.param("log_deviation", nn.initializers.constant(np.log(LANDMARK_PX)), (LANDMARKS,))
        first = np.repeat([IDENTITY, EXPRESSION, POSE], [self.sizes.identity, self.sizes.expression, 6])
        precision = self.param("log_precision", lambda key: -jnp.log(jnp.float32(first)))
        weight = jnp.exp(-deviation) / jnp.sqrt(1 + variance / SCATTER_PX**2)

        def projected(values: jax.Array) -> jax.Array:
            shape = mean + jnp.tensordot(values[:-6], basis, 1)
            turned = formation.turned(shape[None], formation.rotation(values[None, -6:-3]))[0]
            return formation.project(formation.to_camera(turned + values[-3:]))

        def fitted(guess: jax.Array, points: jax.Array, weight: jax.Array) -> jax.Array:
            return most_probable(projected, guess, points, weight[:, None], jnp.exp(precision), STEPS)

        with jax.default_matmul_precision("highest"):
            return jax.vmap(fitted)(guess, points, weight)


def landmark_model(face: FaceModel) -> dict[str, jax.Array]:
    """The collection "face" of `Fit`: the 68 landmarks of a face, mean (68,3) dm and modes (I+E,68,3)."""
    mean, identity, expression = (at_landmarks(face, part) for part in (face.mean, face.identity, face.expression))
    return {"mean": mean, "modes": jnp.concatenate([identity, expression])}
