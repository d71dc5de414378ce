"""ONNX files compute what `raw` does, for batch sizes and numbers of points they were not traced with (extra onnx)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxface import export
from jaxface.errors import UserError
from tests import weights
from tests.test_export import MODELS, SIZES

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def run(data: bytes, arrays: dict) -> dict:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return dict(zip((output.name for output in session.get_outputs()), session.run(None, arrays), strict=True))


@pytest.mark.parametrize("name", ["continuous", "pipnet", "jvcr", "deep3d"])
def test_onnx_file_computes_what_raw_does(name):
    predictor = MODELS[name](name)
    exported = export.serialize_onnx(predictor.system, predictor.params, predictor.model_state)
    arrays = {}
    for key, text in predictor.system.inputs.items():
        shape = [min(SIZES.get(side, 0), 101) or int(side) for side in text.split(", ")]
        arrays[key] = weights.image(key, shape) if key == "image" else weights.array(key, shape, 0.3)
    found, expected = run(exported.data, arrays), predictor.raw(arrays)
    assert exported.ms > 0 and exported.network_ms > 0
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert np.ptp(value) > 0
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-4 * max(1, np.abs(value).max()), err_msg=key)


def _loop(x):
    return jax.lax.fori_loop(0, 3, lambda i, y: y + x[:, i, None] * y, x)


def test_the_parts_of_a_network_are_exported_too():
    predictor = MODELS["continuous"]("continuous")
    part = predictor.system.parts()["query"]
    data = export.serialize_onnx(part, predictor.params, predictor.model_state).data
    features = weights.array("features", [2, int(part.inputs["features"].split(", ")[1])], 0.3)
    arrays = {"features": features, "queries": weights.array("queries", [2, 9, 3], 0.3)}
    found, expected = run(data, arrays), part.raw(predictor.params, predictor.model_state, arrays)
    assert b"written by jaxface" in data
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-4 * max(1, np.abs(value).max()))


FUNCTIONS = {
    "scatter": lambda x: x.at[:, 2].set(1.0).at[:, 1].add(x[:, 0]),
    "slices": lambda x: jnp.concatenate([x[:, ::2], x[:, ::-1], jnp.pad(x, ((0, 0), (1, 2)), constant_values=2.0)], 1),
    "rows": lambda x: x[:, jnp.array([[3, 0], [1, 1]])],
    "along_axis": lambda x: jnp.take_along_axis(x, jnp.argmax(x, 1, keepdims=True), 1),
    "products": lambda x: jnp.einsum("bi,bk->bik", x, jnp.exp(-x)),
    "loop": _loop,
    "choice": lambda x: jnp.where(x > 0.5, jnp.clip(x, 0.1, 0.6) ** 3, jax.nn.gelu(x) % 0.3),
    "free_sizes": lambda x: (x[:, None] - x[None]).reshape(-1, 4).sum(0) + jnp.zeros_like(x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations_of_any_batch_size(name):
    from jaxface.onnx_graph.jaxpr import to_onnx

    (batch,) = jax.export.symbolic_shape("B")
    function = FUNCTIONS[name]
    model = to_onnx(lambda a: {"y": function(a["x"])}, {"x": jax.ShapeDtypeStruct((batch, 4), jnp.float32)})
    for size in (1, 5):
        x = np.random.default_rng(size).random((size, 4), np.float32)
        np.testing.assert_allclose(run(model.SerializeToString(), {"x": x})["y"], function(jnp.asarray(x)), atol=1e-5)


def test_what_onnx_lacks_is_one_line():
    from jaxface.onnx_graph.jaxpr import to_onnx

    with pytest.raises(UserError, match="sort cannot be written as ONNX; export StableHLO"):
        to_onnx(lambda a: {"y": jnp.sort(a["x"])}, {"x": jax.ShapeDtypeStruct((3,), jnp.float32)})
