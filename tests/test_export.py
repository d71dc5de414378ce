"""An exported network computes what `raw` does, for batch sizes and numbers of points it was not traced with."""

import jax
import numpy as np
import pytest

from configs import jvcr, pipnet
from jaxface import export
from jaxface.inference import Predictor
from jaxface.system import build
from tests import weights

# More points than one chunk of queries.
SIZES = {"B": 3, "N": 2001}


def fresh(configs, **changes) -> Predictor:
    config = configs.get_config("smoke")
    config.model.update(changes)
    system = build(config, "the configuration")
    return Predictor(config, system, *system.init(jax.random.key(0)))


MODELS = {
    "continuous": Predictor.pretrained,
    "pipnet": lambda _: fresh(pipnet, meanface=tuple(weights.generator("face").random(136))),
    "jvcr": lambda _: fresh(jvcr),
    "deep3d": Predictor.pretrained,
    "nphm": Predictor.pretrained,
}


@pytest.mark.parametrize("name", MODELS)
def test_exported_file_computes_what_raw_does(name):
    predictor = MODELS[name](name)
    exported = jax.export.deserialize(
        bytearray(export.serialize(predictor.system, predictor.params, predictor.model_state))
    )
    assert exported.platforms == ("cpu", "cuda", "tpu")
    arrays = {}
    for key, text in predictor.system.inputs.items():
        shape = [SIZES.get(side) or int(side) for side in text.split(", ")]
        arrays[key] = weights.image(key, shape) if key == "image" else weights.array(key, shape, 0.3)
    found, expected = exported.call(arrays), predictor.raw(arrays)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert np.ptp(value) > 0
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-5 * max(1, np.abs(value).max()), err_msg=key)


def test_the_parts_of_continuous_compute_what_raw_does():
    predictor = Predictor.pretrained("continuous")
    graphs = {
        name: jax.export.deserialize(bytearray(export.serialize(part, predictor.params, predictor.model_state)))
        for name, part in predictor.system.parts().items()
    }
    arrays = {"image": weights.image("image", (2, 128, 128, 3)), "queries": weights.array("queries", (2, 130, 3), 0.3)}
    expected = predictor.raw(arrays)
    features = graphs["encode"].call({"image": arrays["image"]})["features"]
    found = graphs["query"].call({"features": features, "queries": arrays["queries"]})
    for key, value in found.items():
        np.testing.assert_allclose(value, expected[key], rtol=0, atol=1e-5, err_msg=key)
    assert set(found) == {"points", "sigma"} and set(graphs) == {"encode", "query"}
