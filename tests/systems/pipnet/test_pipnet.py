"""The whole system on its smoke variant: training, resuming, scoring; every variant builds; the loss falls."""

import json
import re

import jax
import numpy as np
import pytest

from configs.pipnet import VARIANTS, get_config
from jaxface import checkpoint, config_file, evaluation, metric_writer, parallel, training
from jaxface.errors import UserError
from jaxface.systems import pipnet

FACE = np.random.default_rng(0).random(2 * 106)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The smoke variant with a data folder of its own."""
    config = get_config("smoke")
    config.data.dir = str(tmp_path_factory.mktemp("data"))
    return pipnet.resolve(config)


def test_smoke_trains_and_a_second_run_verifies(prepared, tmp_path):
    first = training.fit(pipnet.build(prepared), prepared, tmp_path)
    lines = metric_writer.read(tmp_path)
    assert int(first.step) == 8 and lines[-1]["step"] == 8
    assert len(checkpoint.steps(tmp_path)) == 3
    assert len(config_file.load(tmp_path).model.meanface) == 136
    scored = lines[-1]["rendered_heads/makehuman/nme_crop"]
    assert lines[-1]["rendered_heads/makehuman/nme_pixels"] == pytest.approx(scored, rel=1e-3)  # crops are square
    again = training.fit(pipnet.build(prepared), prepared, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, (again.params, again.model_state), (first.params, first.model_state))
    results = evaluation.evaluate(pipnet.build(prepared), prepared, tmp_path)
    assert results["rendered_heads/makehuman"]["nme_crop"] == pytest.approx(scored, rel=1e-4)


@pytest.mark.parametrize("tasks", [None, (0, 1, 2, 3)])
def test_the_loss_falls_on_one_batch(tasks, prepared):
    config = prepared.copy_and_resolve_references()
    config.optim.update(schedule="constant", lr=3e-3)
    system = pipnet.build(config)
    step = parallel.compile_step(training.make_step(system, 0, 0.0), devices=jax.devices()[:1])
    state = training.initial_state(system, *system.init(jax.random.key(0)), 0.0)
    state = parallel.replicate(state, devices=jax.devices()[:1])
    batch = next(system.train_data(0)) | ({"task": np.array(tasks, np.int32)} if tasks else {})
    batch = parallel.shard(batch, devices=jax.devices()[:1])
    losses = []
    for _ in range(40):
        state, measured = step(state, batch, {})
        losses.append(float(measured["loss"]))
    assert np.isfinite(losses).all() and np.mean(losses[-5:]) < 0.6 * losses[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_builds(variant):
    config = get_config(variant)
    config.model.meanface = tuple(FACE[: 2 * (config.model.landmarks or 21)])
    config.model.merge = "mean" if variant.startswith("aflw") else "cyclic"
    config = pipnet.resolve(config)
    params, model_state = jax.eval_shape(pipnet.build(config).init, jax.random.key(0))
    assert params["cls_layer"]["bias"].shape == (config.model.landmarks,) and model_state["batch_stats"]


def test_the_mean_face_comes_from_the_prepared_data(tmp_path):
    config = get_config("cofw_resnet18")
    config.data.dir = str(tmp_path)
    with pytest.raises(UserError, match="config.model.meanface is empty, and .* has no mean face of cofw"):
        pipnet.build(config)
    for version in ("1.0.0", "1.10.0"):
        (tmp_path / "cofw" / version).mkdir(parents=True)
        (tmp_path / "cofw" / version / "dataset_info.json").write_text("{}")
    (tmp_path / "cofw" / "1.10.0" / "metadata.json").write_text(json.dumps({"meanface": FACE[:58].tolist()}))
    assert pipnet.resolve(config).model.meanface == tuple(FACE[:58])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"backbone": "vgg16"}, "config.model.backbone: 'vgg16' cannot be used; give one of custom, resnet18"),
        ({"stride": 8}, "config.model.stride: 8 cannot be used"),
        ({"image_size": 250}, "config.model.image_size 250 is not a multiple"),
        ({"landmarks": 5}, "config.model.neighbors is 10; with 5 landmarks it must be between 1 and 4"),
        ({"meanface": (0.1, 0.2)}, "config.model.meanface has 2 numbers; 98 landmarks need 196"),
        ({"merge": "median"}, "config.model.merge: 'median' cannot be used"),
        ({"crop": "round"}, "config.model.crop: 'round' cannot be used"),
    ],
)
def test_invalid_values_raise_one_line(changes, message):
    config = get_config("wflw_resnet18")
    config.model.meanface = tuple(FACE[:196])
    config.model.update(changes)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        pipnet.build(config)
    assert "\n" not in str(caught.value)
