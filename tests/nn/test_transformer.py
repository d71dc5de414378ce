"""Transformer blocks: padding has no effect, gradients are finite, attention matches the paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxface.nn.transformer import AttentionBlock, CrossCovarianceAttention, CrossCovarianceBlock

BLOCKS = {
    "xca": CrossCovarianceBlock(heads=2),
    "local": CrossCovarianceBlock(heads=2, local=True),
    "mhsa": AttentionBlock(heads=2),
}


@pytest.fixture
def tokens():
    return jax.random.normal(jax.random.key(0), (2, 7, 8))


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("train", [False, True])
def test_padding_is_exact(kind, train, tokens):
    block = BLOCKS[kind]
    variables = jax.jit(block.init)(jax.random.key(1), tokens)
    apply = jax.jit(lambda *args: block.apply(variables, *args, train=train, mutable=["batch_stats"])[0])
    junk = jnp.concatenate([tokens, jnp.full((2, 5, 8), 1e3)], 1)
    valid = jnp.arange(12)[None].repeat(2, 0) < 7
    np.testing.assert_allclose(apply(junk, valid)[:, :7], apply(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", BLOCKS)
def test_gradients_are_finite_where_nothing_is_valid(kind, tokens):
    block = BLOCKS[kind]
    variables = jax.jit(block.init)(jax.random.key(1), tokens)
    valid = jnp.array([[True] * 7, [False] * 7])
    loss = lambda v, x: jnp.where(valid[..., None], block.apply(v, x, valid), 0.0).sum()  # noqa: E731
    for leaf in jax.tree.leaves(jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, tokens)):
        assert np.isfinite(leaf).all()


def test_cross_covariance_attention_by_hand(tokens):
    layer = CrossCovarianceAttention(heads=2)
    params = layer.init(jax.random.key(1), tokens)["params"]
    x = np.asarray(tokens[0], np.float64)
    heads = []
    for head in range(2):
        q, k, v = (
            x @ np.asarray(params["qkv"]["kernel"])[:, 8 * i + 4 * head : 8 * i + 4 * head + 4] for i in range(3)
        )
        scores = (q / np.linalg.norm(q, axis=0)).T @ (k / np.linalg.norm(k, axis=0))
        attention = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        heads.append(v @ attention.T)
    expected = np.concatenate(heads, -1) @ np.asarray(params["project"]["kernel"]) + np.asarray(
        params["project"]["bias"]
    )
    np.testing.assert_allclose(layer.apply({"params": params}, tokens)[0], expected, rtol=1e-4, atol=1e-5)


def test_batch_statistics_leave_padding_out(tokens):
    block = BLOCKS["local"]
    variables = jax.jit(block.init)(jax.random.key(1), tokens)
    valid = jnp.arange(7)[None].repeat(2, 0) < 3
    for rest in (0.0, 1e3):
        x = jnp.where(valid[..., None], tokens, rest)
        changed = block.apply(variables, x, valid, train=True, mutable=["batch_stats"])[1]
        if rest == 0.0:
            first = changed
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), first, changed)
