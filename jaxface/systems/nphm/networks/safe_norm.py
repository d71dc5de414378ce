"""Softplus and norms whose derivatives are finite everywhere; the softplus is fast on CPUs."""

import jax
import jax.numpy as jnp
import numpy as np

# Sharpness of DeepSDF's softplus (official networks: torch.nn.Softplus(beta=100)).
BETA = 100.0
DEGREE = 7


def _log1p_coefficients() -> tuple[float, ...]:
    """Coefficients, highest power first, of the Chebyshev fit of log1p(t)/t on [0,1]; its error is 4e-7."""
    fit = np.polynomial.Chebyshev.interpolate(lambda t: np.log1p(t) / t, DEGREE, domain=(1e-9, 1))
    return tuple(float(c) for c in fit.convert(kind=np.polynomial.Polynomial).coef[::-1])


COEFFICIENTS = _log1p_coefficients()


@jax.custom_jvp
def softplus(x: jax.Array) -> jax.Array:
    """log(1 + exp(100 x)) / 100, within 4e-9.

    A polynomial replaces log1p because XLA's softplus takes half of a network's time on CPUs. The derivative is given
    explicitly because differentiating the polynomial is slow.
    """
    t = jnp.exp(-BETA * jnp.abs(x))
    value = jnp.full_like(x, COEFFICIENTS[0])
    for coefficient in COEFFICIENTS[1:]:
        value = value * t + coefficient
    return jnp.maximum(x, 0) + value * t / BETA


@softplus.defjvp
def _softplus_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    return softplus(primals[0]), softplus_derivative(primals[0]) * tangents[0]


@jax.custom_jvp
def softplus_derivative(x: jax.Array) -> jax.Array:
    """1 / (1 + exp(-100 x)), the logistic derivative of `softplus`; shares its exponential."""
    t = jnp.exp(-BETA * jnp.abs(x))
    return jnp.where(x >= 0, 1.0, t) / (1 + t)


@softplus_derivative.defjvp
def _softplus_derivative_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    value = softplus_derivative(primals[0])
    return value, BETA * value * (1 - value) * tangents[0]


def norm(x: jax.Array) -> jax.Array:
    """Euclidean norm over the last axis with gradient 0 at 0, as in PyTorch; `jnp.linalg.norm` has NaN there."""
    squared = (x * x).sum(-1)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def normalize(x: jax.Array) -> jax.Array:
    """Vectors scaled to unit length over the last axis; zero vectors stay zero."""
    squared = (x * x).sum(-1, keepdims=True)
    positive = squared > 0
    return jnp.where(positive, x / jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)
