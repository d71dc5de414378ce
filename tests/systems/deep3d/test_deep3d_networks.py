"""R-Net and ArcFace with weights generated from manifests: parity with their official PyTorch codes."""

import functools

import jax
import numpy as np
import pytest

from configs.deep3d import get_config
from jaxface.errors import UserError
from jaxface.systems.deep3d import losses, model
from jaxface.systems.deep3d.networks import recognition
from jaxface.systems.deep3d.torch_weights import from_torch
from tests import weights

pytestmark = pytest.mark.usefixtures("full_precision")


def close(actual, golden, tolerance=1e-4):
    assert np.abs(actual - golden).max() <= tolerance * np.abs(golden).max()


def zeros(net, size=224):
    shapes = jax.eval_shape(functools.partial(model.init, net, size, ()), jax.random.key(0))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


@functools.cache
def checkpoint():
    return weights.state_dict("deep3d_rnet_manifest.json")


@pytest.fixture(scope="module")
def rnet():
    net = model.model_from_config(get_config("reference").model)
    converted = from_torch(net, "resnet50", checkpoint(), *zeros(net))
    return net, converted.params, converted.model_state


def test_rnet_with_running_statistics(rnet):
    net, params, model_state = rnet
    golden = np.load(weights.GOLDEN / "deep3d_rnet.npz")
    image = weights.image("deep3d.img", (2, 224, 224, 3))
    out = model.raw(net, lambda: None, params, model_state, {"image": image})
    assert out.keys() == {"coefficients"}
    close(out["coefficients"], golden["coeff_eval"])


def test_rnet_with_the_batch_statistics(rnet):
    net, params, model_state = rnet
    golden = np.load(weights.GOLDEN / "deep3d_rnet.npz")
    image = weights.image("deep3d.img", (2, 224, 224, 3))

    def train(variables, image):
        return net.apply(variables, image, train=True, mutable=["batch_stats"])

    step = jax.jit(jax.shard_map(train, mesh=jax.make_mesh((1,), ("data",), devices=jax.devices()[:1]),
                                 in_specs=jax.P(), out_specs=jax.P(), check_vma=False))  # fmt: skip
    coefficients, changed = step({"params": params, **model_state}, image)
    close(coefficients, golden["coeff_train"])
    running = changed["batch_stats"]["backbone"]["bn1"]
    close(running["mean"], golden["bn1_running_mean_after"])
    close(running["var"], golden["bn1_running_var_after"])


def test_checkpoints_as_saved_and_as_saved_under_ddp(rnet):
    net, params, _ = rnet
    wrapped = {f"net_recon.module.{name}": value for name, value in checkpoint().items()}
    wrapped |= {"opt_00.state.0.step": np.zeros(1), "sched_00.last_epoch": np.zeros(1)}
    again = from_torch(net, "resnet50", wrapped, *zeros(net)).params
    jax.tree.map(np.testing.assert_array_equal, again, params)
    with pytest.raises(UserError, match="name the file in config.loss.recognition"):
        from_torch(net, "resnet50", {"layer1.0.prelu.weight": np.zeros(64)}, *zeros(net))
    broken = {name: value for name, value in checkpoint().items() if name != "final_layers.5.bias"}
    with pytest.raises(UserError, match=r"1 missing: final_layers.5.bias; 1 left over: surplus"):
        from_torch(net, "resnet50", {**broken, "surplus": np.zeros(3)}, *zeros(net))


def test_resnet18_and_white_light_have_the_coefficient_counts_of_the_paper():
    config = get_config("reference").model
    config.backbone, config.white_light = "resnet18", True
    net = model.model_from_config(config)
    params, _ = zeros(net)
    assert net.sizes.total == 239 and params["light"]["kernel"].shape == (512, 9)


def test_an_untrained_network_predicts_the_mean_face():
    config = get_config("smoke").model
    config.update(regressor="linear", num_dense_points=0, refine=0)
    net = model.model_from_config(config)
    params, model_state = model.init(net, config.image_size, (), jax.random.key(0))
    out = model.raw(net, lambda: None, params, model_state, {"image": weights.image("untrained", (1, 64, 64, 3))})
    assert not out["coefficients"].any()


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({}, "add image or coefficients"),
        ({"image": np.zeros((224, 224, 3))}, r"must be \(B,H,W,3\)"),
        ({"coefficients": np.zeros((1, 239))}, r"must be \(B,257\)"),
    ],
)
def test_arrays_that_do_not_fit(rnet, arrays, message):
    with pytest.raises(UserError, match=message):
        model.raw(rnet[0], lambda: None, *rnet[1:], arrays)


@pytest.fixture(scope="module")
def arcface():
    entries = weights.json.loads((weights.GOLDEN / "deep3d_arcface_r50_manifest.json").read_text())
    return recognition.from_torch({name: weights.fill(f"arcface.{name}", shape) for name, shape in entries.items()})


def test_perceptual_loss(arcface):
    golden = np.load(weights.GOLDEN / "deep3d_image_losses.npz")
    image, target = (weights.image(f"deep3d.{name}", (2, 224, 224, 3)) for name in "ab")
    matrix = recognition.alignment_matrix(golden["lm"], 224)
    close(matrix, golden["M"], 1e-5)
    crop = recognition.warp(target, golden["M"])
    close(crop.transpose(0, 3, 1, 2)[:, :, ::8, ::8], golden["crop_sub"], 1e-5)
    features = jax.jit(recognition.features)
    close(features(arcface, image, golden["lm"]), golden["feat_a"])
    target_features = features(arcface, target, golden["lm"])
    close(target_features, golden["feat_b"])
    close(losses.perceptual_loss(features(arcface, image, golden["lm"]), target_features), golden["perceptual"], 1e-5)


@pytest.mark.xfail(reason="float32: from ours in float64 the golden differs by 6e-4, ours in float32 by 3.5e-4")
def test_gradient_of_the_perceptual_loss(arcface):
    golden = np.load(weights.GOLDEN / "deep3d_image_losses.npz")
    image, target = (weights.image(f"deep3d.{name}", (2, 224, 224, 3)) for name in "ab")
    target_features = jax.jit(recognition.features)(arcface, target, golden["lm"])

    def distance(image):
        return losses.perceptual_loss(recognition.features(arcface, image, golden["lm"]), target_features)

    gradient = jax.jit(jax.grad(distance))(image)
    close(gradient.transpose(0, 3, 1, 2)[:, :, ::16, ::16], golden["perceptual_grad_sub"], 1e-4)


def test_coinciding_landmarks_give_the_identity_alignment():
    np.testing.assert_array_equal(recognition.alignment_matrix(np.full((1, 68, 2), 50.0), 224)[0], np.eye(2, 3))
