"""Workdirs and shipped files of earlier versions load, resume and predict under today's names."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from orbax.checkpoint import v1 as ocp

from configs.deep3d import get_config
from jaxface import checkpoint, checksums, compat, config_file, pretrained, system, training
from jaxface.inference import Predictor

EARLIER_NAMES = {
    "model": {"regressor": "reader", "num_dense_points": "dense"},
    "loss": {"num_rendered": "rendered", "coefficient_weights": "size"},
    "weights": {"reflectance": "evenness"},
}


@pytest.fixture(scope="module")
def state():
    built = system.build(get_config("smoke"), "the test")
    return training.initial_state(built, *built.init(jax.random.key(0)), 0.9)


def write_earlier_config(folder: pathlib.Path, values: dict) -> None:
    """config.json of a deep3d run as earlier versions wrote it."""

    def renamed(values: dict, section: str = "") -> dict:
        names = EARLIER_NAMES.get(section, {})
        return {
            names.get(name, name): renamed(value, name) if isinstance(value, dict) else value
            for name, value in values.items()
        }

    values = renamed(values)
    assert values["model"]["reader"] == "map_fit"
    values["model"]["reader"] = "fit"
    (folder / "config.json").write_text(json.dumps(values))


def save_earlier_checkpoint(folder: pathlib.Path, state) -> None:
    """A checkpoint whose batch statistics are the item `extra`."""
    items = {"step": {"step": state.step}, "params": state.params, "extra": state.model_state}
    items = jax.tree.map(jnp.asarray, items | {"opt_state": state.opt_state, "ema": state.ema})
    metadata = {"checksums": checkpoint.array_checksums(items)}
    with ocp.training.Checkpointer(folder / "checkpoints") as checkpointer:
        checkpointer.save_checkpointables(int(state.step), items, custom_metadata=metadata)


def test_an_earlier_workdir_loads_resumes_and_predicts(tmp_path, state):
    config = get_config("smoke")
    write_earlier_config(tmp_path, system.resolve(config, "the test").to_dict())
    save_earlier_checkpoint(tmp_path, state)
    assert config_file.load(tmp_path).to_dict() == system.resolve(config, "the test").to_dict()
    restored = checkpoint.restore(tmp_path, state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    predictor = Predictor.from_workdir(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, predictor.params, state.ema)
    jax.tree.map(np.testing.assert_array_equal, predictor.model_state, state.model_state)
    arrays = {"image": np.random.default_rng(0).random((1, 64, 64, 3), np.float32)}
    assert np.isfinite(predictor.raw(arrays)["landmarks"]).all()


def test_an_earlier_shipped_file_loads(tmp_path, state):
    pretrained.save_asset(tmp_path, get_config("smoke"), state.params, state.model_state)
    expected = pretrained.load_asset(tmp_path)
    arrays = safetensors.numpy.load_file(tmp_path / pretrained.PARAMS_FILE)
    earlier = {name.replace("model_state/", "extra/"): value for name, value in arrays.items()}
    assert earlier.keys() != arrays.keys()
    (tmp_path / checksums.NAME).unlink()
    safetensors.numpy.save_file(earlier, tmp_path / pretrained.PARAMS_FILE)
    write_earlier_config(tmp_path, json.loads((tmp_path / "config.json").read_text()))
    jax.tree.map(np.testing.assert_array_equal, pretrained.load_asset(tmp_path)[1:], expected[1:])


def test_an_earlier_copy_of_a_dependency_is_used(tmp_path, state):
    own = tmp_path / "frozen" / "identity"
    own.mkdir(parents=True)
    save_earlier_checkpoint(own, state)
    (tmp_path / "config.json").write_text(json.dumps({"system": "nphm", "identity": "frozen/identity"}))
    config = config_file.load(tmp_path)
    assert config.identity == str(own)
    assert pretrained.copy_dependencies(tmp_path, config).identity == str(own)
    assert not (tmp_path / config_file.DEPENDENCIES).exists()


def test_renamed_keys_and_values():
    earlier = {"untrained": {"last_is_one": True}, "model": {"predictor": "locate"}, "data": {"dense": 3, "dir": "d"}}
    assert compat.current_config(earlier) == {
        "random_identity": {"replicate_last_point_bug": True},
        "model": {"predictor": "soft_argmax"},
        "data": {"num_surface_samples": 3, "dir": "d"},
    }
    assert compat.current_key("untrained.last_is_one") == "random_identity.replicate_last_point_bug"
    assert compat.current_key("loss.size.identity") == "loss.coefficient_weights.identity"
    assert compat.current_key("data.dense_points") is None


def test_earlier_detectors_answer_the_face_only():
    values = compat.current_config({"system": "continuous", "data": {"dir": "data"}, "model": {"sigma": "log"}})
    assert values["data"]["regions"] == ["face"] and values["model"]["template"] == "procedural"


def test_earlier_head_models_keep_their_fit():
    values = compat.current_config({"system": "nphm", "fit": {"steps": 500}})
    assert values["fit"] == {"steps": 500, "face_share": 0.0, "schedule": "official"}
