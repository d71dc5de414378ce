"""Converted networks against numbers of timm and of the unofficial PyTorch reimplementation, and all naming schemes."""

import functools
import json

import jax
import ml_collections
import numpy as np
import pytest

from jaxface.errors import UserError
from jaxface.systems.continuous import model as continuous
from jaxface.systems.continuous.torch_weights import from_torch
from tests import weights

IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


pytestmark = pytest.mark.usefixtures("full_precision")


def build(**changes):
    config = dict(
        encoder="convnext_tiny", final_norm=True, drop_path=0.1, pool="mean", feature_width=768, query_width=64
    )
    config |= dict(
        fourier_bands=0, predictor="mlp", width=512, layers=4, heads=8, sigma="log", dtype="float32", layer_scale=1e-6
    )
    return continuous.model_from_config(
        ml_collections.ConfigDict(
            config | IMAGENET | {"remat": False, "normaliser": False, "output": "image"} | changes
        )
    )


@functools.cache
def zeros(model):
    """Variables filled with zeros: a strict conversion replaces all of them."""
    shapes = jax.eval_shape(functools.partial(continuous.init, model, 64), jax.random.key(0))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def relative(actual, golden):
    return np.abs(actual - golden).max() / np.abs(golden).max()


def names(file):
    return json.loads((weights.GOLDEN / file).read_text())


@functools.cache
def timm_weights():
    return weights.state_dict("timm_convnext_tiny_manifest.json")


def test_convnext_tiny_of_timm_map_by_map():
    golden = np.load(weights.GOLDEN / "timm_convnext_tiny_golden.npz")
    model = build()
    params = from_torch(model, timm_weights(), *zeros(model)).params
    image = weights.image("cld/image224", (2, 224, 224, 3))
    normalised = (image - np.array(IMAGENET["mean"], np.float32)) / np.array(IMAGENET["std"], np.float32)
    keep = lambda module, _: module.name == "stem_norm"  # noqa: E731
    run = jax.jit(functools.partial(model.encoder.apply, capture_intermediates=keep))
    (pooled, stages), state = run({"params": params["encoder"]}, normalised)
    ours = {"stem": state["intermediates"]["stem_norm"]["__call__"][0]}
    ours |= {f"stage{stage}": value for stage, value in enumerate(stages)}
    for (name, value), stride, channels in zip(ours.items(), (8, 8, 4, 2, 1), (2, 2, 2, 2, 6), strict=True):
        value = value[:, ::stride, ::stride, ::channels].transpose(0, 3, 1, 2)
        assert relative(value, golden[name]) < 1e-5, name
    assert relative(pooled, golden["pooled"]) < 1e-5
    features = continuous.raw(model, params, {}, {"image": image})
    assert features.keys() == {"features"}
    assert relative(features["features"], golden["pooled"]) < 1e-5


@pytest.mark.parametrize("library", ["torchvision", "fb"])
def test_names_of_other_libraries_fill_the_same_network(library):
    model = build()
    to_timm = names(f"{library}_to_timm_names.json")
    theirs = {name: timm_weights()[timm] for name, timm in to_timm.items() if timm in timm_weights()}
    if library == "torchvision":
        assert (
            theirs.keys() | {"classifier.2.weight", "classifier.2.bias"}
            == names("torchvision_convnext_tiny_manifest.json").keys()
        )
        theirs = {name: value[:, None, None] if "layer_scale" in name else value for name, value in theirs.items()}
    classifier = [name for name, timm in to_timm.items() if timm.startswith("head.fc")]
    theirs |= {name: np.zeros(3, np.float32) for name in classifier}
    wrapped = {f"model.{name}": value for name, value in theirs.items()}
    converted = from_torch(model, wrapped, *zeros(model))
    expected = from_torch(model, timm_weights(), *zeros(model)).params
    jax.tree.map(np.testing.assert_array_equal, converted.params, expected)
    assert classifier[0] in converted.notes[0]


def test_every_entry_of_version_two_is_loaded():
    model = build(encoder="convnextv2_tiny")
    params = from_torch(model, weights.state_dict("timm_convnextv2_tiny_manifest.json"), *zeros(model)).params
    assert all(np.any(leaf) for leaf in jax.tree.leaves(params["encoder"]))


def test_final_norm_is_dropped_if_the_model_has_none():
    model = build(final_norm=False)
    converted = from_torch(model, timm_weights(), *zeros(model))
    assert "norm" not in converted.params["encoder"]
    assert "head.norm.weight" in converted.notes[0]


def test_every_mismatch_is_named():
    broken = dict(timm_weights())
    broken["stages.0.blocks.0.gamma"] = np.zeros(5)
    del broken["stem.1.bias"]
    broken["surplus.weight"] = np.zeros(2)
    model = build()
    with pytest.raises(
        UserError, match=r"missing: stem.1.bias.*left over: surplus.weight.*stages.0.blocks.0.gamma \(5,\)"
    ):
        from_torch(model, broken, *zeros(model))
    with pytest.raises(UserError, match="neither a ConvNeXt"):
        from_torch(model, {"conv1.weight": np.zeros(3)}, *zeros(model))


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_unofficial_detector(kind):
    golden = np.load(weights.GOLDEN / "continuous_unofficial_golden.npz")
    width = {"mlp": 512, "transformer": 768}[kind]
    model = build(
        encoder="convnext_small",
        final_norm=False,
        predictor=kind,
        width=width,
        sigma="variance",
        mean=[0.5] * 3,
        std=[0.2] * 3,
    )
    checkpoint = weights.state_dict(f"continuous_unofficial_{kind}_manifest.json")
    converted = from_torch(model, checkpoint, *zeros(model))
    params, model_state = converted.params, converted.model_state
    image = weights.image("cld/florisdf224", (2, 224, 224, 3))
    queries = weights.array("cld/florisdf_q", (2, 68, 3))
    out = continuous.raw(model, params, model_state, {"image": image, "queries": queries})
    prefix = {"mlp": "MLP", "transformer": "Transformer"}[kind]
    assert relative(out["features"], golden[f"{prefix}_feature"]) < 1e-4
    assert relative(out["points"], golden[f"{prefix}_lm"]) < 1e-4
    assert relative(out["sigma"] ** 2, golden[f"{prefix}_var"]) < 1e-4
