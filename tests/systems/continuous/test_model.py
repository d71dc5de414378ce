"""The continuous network: its options, and which outputs depend on which queries."""

import functools

import jax
import numpy as np
import pytest

from configs import continuous as configs
from jaxface.errors import UserError
from jaxface.systems import continuous as continuous_system
from jaxface.systems.continuous import model as continuous
from jaxface.systems.continuous import other_template, torch_weights

QUERIES = np.random.default_rng(0).normal(size=(2, 9, 3)).astype(np.float32)
IMAGE = np.random.default_rng(1).random((2, 32, 32, 3)).astype(np.float32)


def build(**changes):
    config = configs.get_config("smoke").model
    config.update({"pool": "grid", "feature_width": 32, "predictor": "mlp", "layers": 3} | changes)
    net = continuous.model_from_config(config)
    shapes = jax.eval_shape(functools.partial(continuous.init, net, 32), jax.random.key(0))
    rng = np.random.default_rng(3)
    # Sampled with numpy: compiling the initialisers takes longer than all tests of this file.
    params, model_state = jax.tree.map(lambda leaf: 0.2 * rng.standard_normal(leaf.shape, np.float32), shapes)
    return net, params, jax.tree.map(np.abs, model_state)


@pytest.mark.parametrize("predictor", ["mlp", "soft_argmax", "transformer", "xca", "mhsa"])
def test_padded_queries_do_not_influence_others(predictor):
    net, params, model_state = build(predictor=predictor, pool="map" if predictor == "soft_argmax" else "grid")
    query = jax.jit(functools.partial(net.apply, {"params": params, **model_state}, method="query"))
    valid = np.arange(9)[None].repeat(2, 0) < 6
    shape = (2, 4, 4, 32) if predictor == "soft_argmax" else (2, 32)
    features = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    points, sigma = query(features, QUERIES, valid)
    alone = query(features, QUERIES[:, :6])
    np.testing.assert_allclose(points[:, :6], alone[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sigma[:, :6], alone[1], rtol=1e-4, atol=1e-5)
    single = query(features, QUERIES[:, :1])[0]
    assert np.allclose(single, points[:, :1], rtol=1e-4, atol=1e-5) == (predictor in ("mlp", "soft_argmax"))


@pytest.mark.parametrize("predictor", ["mlp", "transformer", "xca", "mhsa"])
def test_answers_do_not_depend_on_how_queries_are_grouped(predictor):
    net, params, model_state = build(predictor=predictor)
    answer = jax.jit(functools.partial(net.apply, {"params": params, **model_state}, method="answer"))
    features = np.random.default_rng(2).normal(size=(2, 32)).astype(np.float32)
    together = answer(features, QUERIES, np.ones((2, 9), bool))
    apart = [answer(features, part, np.ones(part.shape[:2], bool)) for part in np.split(QUERIES, [2, 3], axis=1)]
    for whole, *parts in zip(together, *apart, strict=True):
        np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-4, atol=1e-5)
    assert bool(net.anchors) == (predictor != "mlp")


@pytest.mark.parametrize(
    "changes", [{"pool": "mean", "feature_width": 960}, {"pool": "map", "predictor": "soft_argmax"}]
)
def test_a_mobilenet_encodes_for_every_pool(changes):
    net, params, model_state = build(encoder="mobilenet_v3", **changes)
    assert set(params["encoder"]) == {"mobilenet"} and "batch_stats" in model_state
    run = jax.jit(functools.partial(net.apply, method="encode"))
    features = run({"params": params, **model_state}, np.zeros((2, 64, 64, 3), np.float32))
    assert features.shape == ((2, 960) if changes["pool"] == "mean" else (2, 8, 8, 32))
    with pytest.raises(UserError, match="for a ConvNeXt only; choose one"):
        torch_weights.from_torch(net, {"features.0.0.weight": np.zeros(1)}, params, model_state)


def test_a_model_of_another_template_refuses_our_layouts():
    system = continuous_system.build(configs.get_config("unofficial_mlp"))
    for layout in ("68", "dense", None):
        with pytest.raises(UserError, match="trained on another template, give an .npy file"):
            system.predict({}, {}, np.zeros((64, 64, 3), np.uint8), boxes=[8, 8, 50, 56], layout=layout)


def test_a_model_of_another_template_answers_its_own_points():
    """A network that puts each query at its x and y, in millimetres of its own template."""

    class Net:
        def apply(self, variables, *arrays, method):
            return arrays[0] if method == "encode" else (arrays[1][..., :2] / 100, arrays[2] * 0.5)

    points = np.array([[0.0, 0, 90], [100, -100, 5]])
    (face,) = other_template.bind(Net(), 32)(
        {}, {}, np.zeros((64, 64, 3), np.uint8), boxes=[12, 12, 52, 52], layout=points
    )
    np.testing.assert_allclose(face.points, [[32, 32], [58, 6]], atol=1e-4)
    np.testing.assert_allclose(face.sigma, 13)


def test_sigma_is_clamped():
    net, params, _ = build()
    last = f"layer{net.predictor.layers - 1}"
    for bias, expected in ((-1e4, np.exp(-7) + 1e-3), (1e4, np.exp(3) + 1e-3)):
        params["predictor"]["mlp"][last]["bias"] = np.array([0.0, 0.0, bias], np.float32)
        np.testing.assert_allclose(
            continuous.raw(net, params, {}, {"image": IMAGE, "queries": QUERIES})["sigma"], expected
        )


def test_raw_names_and_user_errors():
    net, params, model_state = build(pool="mean", feature_width=16, final_norm=True)
    out = continuous.raw(net, params, model_state, {"image": IMAGE, "queries": QUERIES})
    assert {name: value.shape for name, value in out.items()} == {
        "features": (2, 16),
        "points": (2, 9, 2),
        "sigma": (2, 9),
    }
    for arrays, message in [
        ({}, "there is no 'image'"),
        ({"image": IMAGE[0]}, r"must be \(B,H,W,3\)"),
        ({"image": IMAGE, "queries": QUERIES[:1]}, r"must be \(2,N,3\)"),
    ]:
        with pytest.raises(UserError, match=message):
            continuous.raw(net, params, model_state, arrays)


@pytest.mark.parametrize(
    ("key", "value"),
    [("encoder", "resnet"), ("pool", "max"), ("predictor", "cnn"), ("sigma", "std"), ("heads", 5)],
)
def test_invalid_configurations_name_the_key(key, value):
    config = configs.get_config("smoke")
    config.model.update({key: value} | ({"predictor": "mhsa", "pool": "grid"} if key == "heads" else {}))
    with pytest.raises(UserError, match=key):
        continuous_system.build(config)


def test_fourier_bands_extend_the_query():
    kernel = build(fourier_bands=3)[1]["query_encoder"]["mlp"]["layer0"]["kernel"]
    assert kernel.shape[0] == 3 + 3 * 2 * 3
