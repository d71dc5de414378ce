"""The two parts of the network that are exported on their own: an image is encoded once for any number of queries."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxface.system import Part
from jaxface.systems.continuous import model


def parts(net: model.Continuous, image_size: int) -> dict[str, Part]:
    """`encode`: image to features; `query`: features and queries to points and sigma. Arrays as in `model.raw`."""
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    variables = jax.eval_shape(functools.partial(_variables, net, image_size), jax.random.key(0))
    _, *shape = jax.eval_shape(functools.partial(net.apply, method="encode"), variables, image).shape
    query = Part(
        functools.partial(_query, net, tuple(shape)), {"features": f"B, {math.prod(shape)}", "queries": "B, N, 3"}
    )
    return {
        "encode": Part(functools.partial(model.raw, net), {"image": f"B, {image_size}, {image_size}, 3"}),
        "query": query,
    }


def _variables(net: model.Continuous, image_size: int, key: jax.Array) -> dict[str, Any]:
    params, model_state = model.init(net, image_size, key)
    return {"params": params, **model_state}


def _query(
    net: model.Continuous, shape: tuple[int, ...], params: Any, model_state: Any, arrays: dict[str, Any]
) -> dict[str, jax.Array]:
    """Points and sigma of queries from features (B,C), which are those of a map of `shape` row by row."""
    features = jnp.asarray(arrays["features"], jnp.float32)
    features = features.reshape(features.shape[0], *shape)
    points, sigma = net.apply({"params": params, **model_state}, features, arrays["queries"], method="query")
    return {"points": points, "sigma": sigma}
