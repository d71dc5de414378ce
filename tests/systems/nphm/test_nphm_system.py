"""Both phases on their smoke variants: training, resuming, evaluation, moved workdirs; `raw`; official checkpoints."""

import shutil

import jax
import numpy as np
import pytest

from configs import nphm_expression, nphm_identity
from jaxface import checkpoint, config_file, evaluation, inference, metric_writer, pretrained, training
from jaxface.errors import UserError
from jaxface.systems import nphm
from tests import weights
from tests.systems.nphm import official

CONFIGS = {"identity": nphm_identity, "expression": nphm_expression}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("nphm")


def smoke(folder, phase):
    config = CONFIGS[phase].get_config("smoke")
    config.data.dir = str(folder / "data")
    if phase == "expression" and (folder / "identity").exists():
        config.identity = str(folder / "identity")
    return nphm.resolve(config)


@pytest.mark.parametrize("phase", ["identity", "expression"])
def test_smoke_trains_and_a_second_run_verifies(phase, folder):
    config, workdir = smoke(folder, phase), folder / phase
    first = training.fit(nphm.build(config), config, workdir)
    assert int(first.step) == 8 and len(checkpoint.steps(workdir)) == 3
    again = training.fit(nphm.build(config), config, workdir)
    jax.tree.map(np.testing.assert_array_equal, again.params, first.params)
    scored = {name: value for name, value in metric_writer.read(workdir)[-1].items() if name.startswith("head_sdf")}
    results = evaluation.evaluate(nphm.build(config), config_file.load(workdir), workdir)
    for name, value in results["head_sdf/makehuman"].items():
        assert value == pytest.approx(scored[f"head_sdf/makehuman/{name}"], rel=1e-3) and value > 0


def test_a_moved_expression_workdir_is_complete(folder):
    moved = folder / "elsewhere" / "moved"
    shutil.copytree(folder / "expression", moved)
    here = inference.Predictor.from_workdir(folder / "expression")
    (folder / "identity").rename(folder / "gone")
    there = inference.Predictor.from_workdir(moved)
    (folder / "gone").rename(folder / "identity")
    code = here.system.constants()["codes"].shape[1]
    arrays = {"points": weights.array("points", (2, 5, 3), 0.3), "identity": weights.array("z", (2, code), 0.1)}
    arrays["expression"] = weights.array("e", (2, here.config.model.code), 0.1)
    ours, moved_outputs = here.raw(arrays), there.raw(arrays)
    assert {name: value.shape for name, value in ours.items()} == {
        "sdf": (2, 5), "gradient": (2, 5, 3), "anchors": (2, 39, 3), "offsets": (2, 5, 3),
    }  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, ours, moved_outputs)
    assert np.abs(ours["offsets"]).max() > 0
    del arrays["expression"]
    assert not here.raw(arrays)["offsets"].any()
    pretrained.save_asset(folder / "asset", here.config, here.params, here.model_state)
    config, params, _ = pretrained.load_asset(folder / "asset")
    again = nphm.build(config).raw(params, {}, arrays)["sdf"]
    np.testing.assert_allclose(again, ours["sdf"], atol=2e-3)


@pytest.mark.parametrize("arrays, message", [
    ({"points": np.zeros((1, 4, 3))}, "identity: missing"),
    ({"points": np.zeros((4, 3)), "identity": np.zeros((1, 168))}, "must be .B,N,3."),
    ({"points": np.zeros((1, 4, 3)), "identity": np.zeros((1, 7))}, "identity: shape .1, 7."),
    ({"points": np.zeros((1, 4, 3)), "identity": np.zeros((2, 168))}, "different batch sizes"),
])  # fmt: skip
def test_malformed_raw_arrays_are_user_errors(arrays, message, folder):
    with pytest.raises(UserError, match=message):
        inference.Predictor.from_workdir(folder / "identity").raw(arrays)


def test_a_checkpoint_determines_codes_and_widths():
    config = nphm_identity.get_config("reference")
    config.model.anchors = tuple(official.golden()["anchors_mean"].ravel().tolist())
    config.model.position_width = 64
    system = nphm.build(config)
    tensors = {f"decoder_state_dict.{name}": value for name, value in official.checkpoint("id").items()}
    codes = weights.array("codes", (3, 1344))
    tensors |= {"latent_codes_state_dict.weight": codes, "latent_codes_val_state_dict.weight": codes[:1]}
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    converted = system.from_torch(tensors, *shapes)
    params, model_state = converted.params, converted.model_state
    config.update(converted.config)
    assert config.model.position_width == 256 and config.model.codes == 3
    np.testing.assert_array_equal(params["codes"], codes)
    assert jax.tree.map(np.shape, params) == jax.tree.map(
        lambda leaf: leaf.shape, jax.eval_shape(nphm.build(config).init, jax.random.key(0))[0]
    )
    golden = official.golden()
    out = system.raw(params, model_state, {"points": golden["id.xyz"], "identity": golden["id.z"][:, 0]})
    assert official.error(out["sdf"], golden["id.train.sdf"]) < 1e-5
    assert official.error(out["gradient"], golden["id.train.grad"]) < 1e-5
    config.model.anchors = config.model.anchors[:-3]
    with pytest.raises(UserError, match="38 mean anchors, but the checkpoint has 39"):
        nphm.build(config).from_torch(tensors, *shapes)
    config.model.anchors = config.model.anchors[:10]
    with pytest.raises(UserError, match="10 numbers"):
        nphm.build(config)


def test_only_the_codes_of_the_batch_have_gradients():
    config = nphm_expression.get_config("smoke")
    config.random_identity.update(anchors=tuple(official.golden()["anchors_mean"].ravel().tolist()), codes=3)
    config.model.codes = 6
    system = nphm.build(config)
    params, model_state = system.init(jax.random.key(0))
    pairs = {name: weights.array(name, (2, 20, 3), 0.3) for name in ("neutral", "posed")}
    numbers = {"subject": np.int32([0, 2]), "expression": np.int32([3, 3]), "scan": np.int32([1, 4])}
    batch = system.preprocess_on_device({**pairs, **numbers}, jax.random.key(1), {})
    loss = lambda params: system.loss(params, model_state, batch, jax.random.key(2), 0, system.constants())[0]  # noqa: E731
    has_gradient = np.any(jax.jit(jax.grad(loss))(params)["codes"], axis=1)
    assert np.flatnonzero(has_gradient).tolist() == [1, 4]


def test_an_expression_model_needs_an_identity_model(folder):
    with pytest.raises(UserError, match="config.identity is empty"):
        nphm.build(nphm_expression.get_config("reference"))
    config = smoke(folder, "expression")
    config.identity = str(folder / "expression")
    with pytest.raises(UserError, match="not a workdir of an identity model"):
        nphm.build(config)
