"""One identity from several images of a person (Deng et al., CVPRW 2019, §5; the inverse covariances are ours)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxface.systems.deep3d.model import Regression, RNet, regress_and_refine
from jaxface.systems.deep3d.networks import confidence_net, map_fit


def combined_identity(
    model: RNet, variables: Any, regression: Regression, persons: int, confidence: bool
) -> tuple[jax.Array, jax.Array]:
    """The identities of persons from N images of each, see `confidence_net.weighted_mean`.

    Args:
        model: the network.
        variables: its params, which include a C-Net's if `confidence`, and model_state in one dict.
        regression: of `persons` * N images, those of a person one after the other.
        persons: number of persons.
        confidence: whether the model has a C-Net; without it all confidences are equal.

    Returns:
        The identities (persons,I), and the confidences (persons,N,I).
    """
    size = model.sizes.identity
    identity = regression.coefficients[:, :size].reshape(persons, -1, size)
    weights, information = jnp.ones_like(identity), None
    if confidence:
        weights = confidence_net.apply(variables["params"], size, regression.pooled, regression.early)
        weights = weights.reshape(identity.shape)
    if regression.observation is not None:
        points = variables[map_fit.COLLECTION][map_fit.NAME]
        observed = regression.observation, regression.coefficients
        information = map_fit.identity_information(points, model.sizes, *observed)
        information = jax.lax.stop_gradient(information.reshape(persons, -1, size, size))
    return confidence_net.weighted_mean(identity, weights, information), weights


def combine(model: RNet, confidence: bool, variables: Any, image: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """The identity of one person from several images (Deng et al., §5); see `combined_identity`.

    Args:
        model: the network.
        confidence: whether it has a C-Net.
        variables: its params and model_state in one dict.
        image: (N,S,S,3), RGB in [0,1].
        coefficients: (N,sizes.total), predicted for each image.

    Returns:
        Identity coefficients (I,).
    """
    return np.asarray(_combine(model, confidence, variables, image, coefficients))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _combine(model: RNet, confidence: bool, variables: Any, image: jax.Array, coefficients: jax.Array) -> jax.Array:
    regression = regress_and_refine(model.clone(refine=0), variables, image, None)
    regression = regression._replace(coefficients=jnp.asarray(coefficients))
    return combined_identity(model, variables, regression, 1, confidence)[0][0]
