"""Landmark-based regressor of R-Net (ours, for short trainings): soft-argmax landmarks, then a MAP fit of the face.

The paper regresses all coefficients from one pooled vector, so that network has to learn from examples how a rotated
head projects. Here the projection is part of the network. Each landmark has an attention over the cells of the feature
map, supervised by a heat map (soft-argmax; integral regression, Sun et al., ECCV 2018). Two Gauss-Newton steps then
give the MAP estimate of identity, expression and pose: the landmarks are the observation, and an MLP predicts the mean
of the prior.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxface.geometry import map_estimate
from jaxface.geometry.map_estimate import Observation, map_shape_and_pose
from jaxface.nn import soft_argmax
from jaxface.nn.batch_norm import BatchNorm, StatisticsAxis
from jaxface.nn.convolution import Conv
from jaxface.systems.deep3d.face_model import FaceModel, at_landmarks
from jaxface.systems.deep3d.networks import dense_points
from jaxface.systems.deep3d.rendering import image_formation
from jaxface.systems.deep3d.rendering.image_formation import CENTER_PX, Sizes

# The coefficients that are fitted, in their order.
UNKNOWNS = ("identity", "expression", "angles", "translation")
# Names of `MAPFitLayer` and `SoftArgmaxHead` in R-Net, and of the variable collection with the face points. These, and
# the parameter names below, are those of the shipped weights.
NAME, SOFT_ARGMAX, COLLECTION = "fit", "reader", "face"
PYRAMID_WIDTH, VALUE_WIDTH, HIDDEN_WIDTH = 96, 8, 384
GAUSS_NEWTON_STEPS = 2
# Initial standard deviation of a landmark, in pixels of the 224 px crop.
LANDMARK_STD_PX = 2.0
# Initial standard deviations of the prior on coefficients and on the pose (radians and decimetres).
IDENTITY_PRIOR_STD, EXPRESSION_PRIOR_STD, POSE_PRIOR_STD = 1.0, 1.4, 0.1
# Initial ratio of a landmark's standard deviation to that of its attention.
ATTENTION_STD_SCALE = 0.25


class SoftArgmaxHead(nn.Module):
    """Soft-argmax landmarks with covariance, and a feature vector, from the maps of a backbone.

    Sows "log_attention" (B,h*w,K), the log-attention of the K = `count` points over the cells of the finest map.
    """

    count: int
    axis_name: StatisticsAxis = None

    @nn.compact
    def __call__(self, maps: list[jax.Array], train: bool = False) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Predicts landmarks.

        Args:
            maps: (B,h,w,C) each, finest first, every map half as large as the one before.
            train: whether batch normalisation uses the batch's statistics.

        Returns:
            Features (B,HIDDEN_WIDTH); points (B,K,2), the 68 landmarks first, in pixels of the 224 px crop, y up; and
            the covariance (B,K,2,2) px² of each point's attention.
        """
        fused = self._fuse(maps, train)
        batch, side = fused.shape[:2]
        cells = nn.relu(fused).reshape(batch, -1, PYRAMID_WIDTH)
        log_attention = nn.log_softmax(nn.Dense(self.count, name="attention")(cells), axis=1)
        self.sow("intermediates", "log_attention", log_attention)
        attention, values = jnp.exp(log_attention), nn.Dense(VALUE_WIDTH, name="value")(cells)
        positions = cell_centers_px(side) - CENTER_PX
        points, covariance, values = soft_argmax.moments(attention, positions, values, axis=1)
        features = [(points / CENTER_PX).reshape(batch, -1), values.reshape(batch, -1), maps[-1].mean((1, 2))]
        return self._hidden(jnp.concatenate(features, -1)), points + CENTER_PX, covariance

    def _fuse(self, maps: list[jax.Array], train: bool) -> jax.Array:
        """Top-down feature pyramid: the coarse map is upsampled and added to each finer one."""
        fused = nn.Dense(PYRAMID_WIDTH, name=f"reduce{len(maps) - 1}")(maps[-1])
        for number in reversed(range(len(maps) - 1)):
            lateral = nn.Dense(PYRAMID_WIDTH, name=f"reduce{number}")(maps[number])
            fused = lateral + jax.image.resize(fused, lateral.shape, "linear")
            if number:
                merged = Conv(PYRAMID_WIDTH, 3, use_bias=False, name=f"merge{number}")(nn.relu(fused))
                fused += nn.relu(BatchNorm(self.axis_name, name=f"norm{number}")(merged, train))
        return fused

    def _hidden(self, x: jax.Array) -> jax.Array:
        x = nn.gelu(nn.Dense(HIDDEN_WIDTH, name="hidden1")(nn.LayerNorm(name="hidden_norm1")(x)))
        return x + nn.gelu(nn.Dense(HIDDEN_WIDTH, name="hidden2")(nn.LayerNorm(name="hidden_norm2")(x)))


def cell_centers_px(side: int) -> jax.Array:
    """Centres (side*side,2) of a map's cells, row by row, as x, y in pixels of the 224 px crop, y up."""
    size_px = 2 * CENTER_PX
    x, y_down = soft_argmax.cell_centers(side, side, size_px).T
    return jnp.stack([x, size_px - y_down], -1)


class MAPFitLayer(nn.Module):
    """MAP estimate of identity, expression and pose of the linear face from observed landmarks and a Gaussian prior.

    The noise of each landmark and the precision of the prior are learned. An attention's covariance is part of the
    noise: a landmark on a contour is localised only across the contour. The points of the face are constants in
    the collection "face" (`points_model`). Sows "points" (B,K,2), the projected points of the estimate, and
    "observation", the `Observation` that was fitted.
    """

    sizes: Sizes

    @nn.compact
    def __call__(self, prior_mean: jax.Array, points: jax.Array, covariance: jax.Array) -> jax.Array:
        """Fits the face.

        Args:
            prior_mean: (B,I+E+6) identity, expression, angles (rad) and translation (dm); Gauss-Newton starts there.
            points: (B,K,2) px, of `SoftArgmaxHead`.
            covariance: (B,K,2,2) px², of `SoftArgmaxHead`.

        Returns:
            The estimate (B,I+E+6).
        """
        modes, count = self.sizes.identity + self.sizes.expression, points.shape[1]
        mean = self.variable(COLLECTION, "mean", jnp.zeros, (count, 3)).value
        basis = self.variable(COLLECTION, "modes", jnp.zeros, (modes, count, 3)).value
        log_std = self.param("log_deviation", nn.initializers.constant(np.log(LANDMARK_STD_PX)), (count,))
        prior_std = np.repeat(
            [IDENTITY_PRIOR_STD, EXPRESSION_PRIOR_STD, POSE_PRIOR_STD],
            [self.sizes.identity, self.sizes.expression, 6],
        )
        log_precision = self.param("log_precision", lambda key: -jnp.log(jnp.float32(prior_std)))
        log_scale = self.param("log_scatter", nn.initializers.constant(np.log(ATTENTION_STD_SCALE)), (count,))
        scaled = jnp.exp(2 * log_scale)[:, None, None] * covariance
        noise = scaled + jnp.exp(2 * log_std)[:, None, None] * jnp.eye(2)

        precision = jnp.broadcast_to(jnp.exp(log_precision), prior_mean.shape)
        observation = Observation(prior_mean, precision, points, _whitening(noise))
        with jax.default_matmul_precision("highest"):
            estimate, projected = jax.vmap(
                lambda one: map_shape_and_pose(project, mean, basis, one, GAUSS_NEWTON_STEPS)
            )(observation)
        self.sow("intermediates", "points", projected)
        self.sow("intermediates", "observation", observation)
        return estimate


def _whitening(covariance: jax.Array) -> jax.Array:
    """Inverse Cholesky factors (…,2,2) of positive definite covariances (…,2,2): they whiten the noise."""
    first = jnp.sqrt(covariance[..., 0, 0])
    across = covariance[..., 0, 1] / first
    second = jnp.sqrt(covariance[..., 1, 1] - across**2)
    rows = [[1 / first, jnp.zeros_like(first)], [-across / (first * second), 1 / second]]
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def project(pose: jax.Array, point: jax.Array) -> jax.Array:
    """Pixels (2,) of a face point (3,) dm under a pose (6,): three angles (rad), translation (dm)."""
    return image_formation.project(image_formation.to_camera(apply_pose(pose, point)))


def apply_pose(pose: jax.Array, point: jax.Array) -> jax.Array:
    """A face point (3,) dm, rotated and translated by a pose (6,)."""
    return image_formation.rotation(pose[None, :3])[0] @ point + pose[3:]


def identity_information(
    points: dict[str, jax.Array], sizes: Sizes, observation: Observation, vector: jax.Array
) -> jax.Array:
    """Information matrices (B,I,I) of the identity: inverse covariances of its posterior in each image.

    Expression and pose are marginalised (Schur complement of the Gauss-Newton matrix at the estimate).

    Args:
        points: `points_model`.
        sizes: number of coefficients of each kind.
        observation: landmarks and prior of B faces, as `MAPFitLayer` sows them.
        vector: (B,sizes.total) the estimate.
    """
    parts = sizes.split(vector)
    unknowns = jnp.concatenate([parts[name] for name in UNKNOWNS], -1)

    def information(one: Observation, estimate: jax.Array) -> jax.Array:
        matrix, _ = map_estimate.normal_equations(project, points["mean"], points["modes"], one, estimate)
        count = sizes.identity
        across, others = matrix[count:, :count], matrix[count:, count:]
        solved = jax.vmap(map_estimate.solve, (None, 1), 1)(others, across)
        return matrix[:count, :count] - across.T @ solved

    with jax.default_matmul_precision("highest"):
        return jax.vmap(information)(observation, unknowns)


def points_model(face: FaceModel, count: int) -> dict[str, jax.Array]:
    """The collection "face" of `MAPFitLayer`: mean (K,3) dm and modes (I+E,K,3) of 68 landmarks and dense points.

    `count` is the number of dense points; K = 68 + count.
    """
    dense = dense_points.select_vertices(face, count)

    def at_points(vertices: jax.Array) -> jax.Array:
        return jnp.concatenate([at_landmarks(face, vertices), jnp.asarray(vertices)[..., dense, :]], -2)

    modes = jnp.concatenate([at_points(face.identity), at_points(face.expression)])
    return {"mean": at_points(face.mean), "modes": modes}
