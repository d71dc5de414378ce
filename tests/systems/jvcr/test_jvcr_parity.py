"""The converted network, volumes, losses, crops and errors against numbers of the original code."""

import functools
import json

import jax
import numpy as np
import pytest

from configs.jvcr import get_config
from jaxface.errors import UserError
from jaxface.systems.jvcr import framing, losses, metrics, model, targets, transforms
from jaxface.systems.jvcr.torch_weights import from_torch
from tests import weights

GOLDEN = dict(np.load(weights.GOLDEN / "jvcr_gain0.8_golden.npz"))
SIZE, SIDE, DEPTHS = 256, 64, (1, 2, 4, 64)
CENTER, SCALE = GOLDEN["image_center"], GOLDEN["image_scale"]
POINTS = GOLDEN["pts71"].astype(np.float64)
NET = model.model_from_config(get_config("reference").model)


pytestmark = pytest.mark.usefixtures("full_precision")


@functools.cache
def checkpoint():
    """A checkpoint as the original saves it: two networks, DataParallel's prefix, no batch counters."""
    keys = {"pix2vox": "state_dict_p2v", "vox2coord": "state_dict_v2c"}
    tensors = {}
    for name, shape in json.loads((weights.GOLDEN / "jvcr_manifest.json").read_text()).items():
        network, _, entry = name.partition(".")
        if not name.endswith("num_batches_tracked"):
            tensors[f"{keys[network]}.module.{entry}"] = weights.fill(name, shape, gain=float(GOLDEN["gain"]))
    return tensors


@functools.cache
def zeros():
    """Variables filled with zeros: a strict conversion replaces all of them."""
    shapes = jax.eval_shape(functools.partial(model.init, NET, SIZE), jax.random.key(0))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def reference_volumes():
    points = transforms.encode_reference(POINTS, CENTER, SCALE, SIZE, SIZE).astype(np.float32)
    batch = {"coordinates": np.stack([points, points]), "in_volume": np.stack([POINTS[:, 0] > 0, np.zeros(71, bool)])}
    return targets.add_volumes("reference", DEPTHS, SIZE, SIDE, batch, None, {})["volumes"], points


@pytest.fixture(scope="module")
def outputs():
    """Volumes (B,depth,y,x) and coordinates of the golden's image, and the coordinates of the true volume."""
    converted = from_torch(NET, checkpoint(), *zeros())
    params, model_state = converted.params, converted.model_state
    variables, image = {"params": params, **model_state}, weights.image("jvcr", (2, SIZE, SIZE, 3))
    with jax.default_matmul_precision("highest"):
        volumes, coordinates = jax.jit(NET.apply)(variables, image)
        from_truth = jax.jit(functools.partial(NET.apply, method="regress"))(
            variables, reference_volumes()[0][-1], None
        )
    return [np.asarray(volume).transpose(0, 3, 1, 2) for volume in volumes], np.asarray(coordinates), from_truth


def sampled(name, array):
    """The flat array where the golden was sampled, and the golden."""
    kept = GOLDEN[f"{name}_sub"]
    return array.ravel()[:: int(GOLDEN[f"{name}_stride"])][: len(kept)], kept


def test_volumes_and_coordinates_of_the_converted_network(outputs):
    volumes, coordinates, _ = outputs
    for index, volume in enumerate(volumes):
        name = f"vox{index}"
        ours, theirs = sampled(name, volume)
        assert volume.shape == tuple(GOLDEN[f"{name}_shape"])
        assert np.abs(ours - theirs).max() < 1e-4 * GOLDEN[f"{name}_std"], name
        assert volume.std() == pytest.approx(float(GOLDEN[f"{name}_std"]), rel=1e-5)
    assert np.abs(coordinates - GOLDEN["coord"]).max() < 1e-4 * GOLDEN["coord"].std()


def test_single_networks_names_and_mismatches():
    tensors = checkpoint()
    voxels = {name: value for name, value in tensors.items() if "p2v" in name}
    converted = from_torch(NET, voxels, *zeros())
    assert converted.notes == ("The checkpoint contains pix2vox only; vox2coord is randomly initialised.",)
    assert np.any(converted.params["pix2vox"]["conv1"]["kernel"])
    assert not np.any(converted.params["vox2coord"]["conv0"]["kernel"])
    bare = {name.removeprefix("state_dict_v2c.module."): value for name, value in tensors.items() if "v2c" in name}
    bare["encoder.0.1.num_batches_tracked"] = np.zeros((), np.int64)
    params = from_torch(NET, bare, *zeros()).params
    np.testing.assert_array_equal(
        params["vox2coord"]["conv1"]["kernel"][2, 3, 1, 5, 7], bare["encoder.1.0.weight"][7, 5, 1, 2, 3]
    )
    flat = {f"vox2coord.{name}": value for name, value in bare.items()}
    jax.tree.map(np.testing.assert_array_equal, from_torch(NET, flat, *zeros()).params, params)
    del flat["vox2coord.fc_cord.bias"]
    with pytest.raises(UserError, match=r"missing: fc_cord.bias.*left over: surplus"):
        from_torch(NET, flat | {"vox2coord.surplus": np.zeros(2)}, *zeros())
    with pytest.raises(UserError, match="not one of JVCR"):
        from_torch(NET, {"conv1.weight": np.zeros(3)}, *zeros())


@pytest.mark.parametrize("name, rotation", [("pts_in_crop", 0.0), ("pts_in_crop_rot25", 25.0)])
def test_encode(name, rotation):
    batch = np.stack([POINTS[:68], POINTS[:68] + 3])
    ours = transforms.encode_reference(batch, np.stack([CENTER, CENTER + 3]), np.full(2, SCALE), SIZE, SIZE, rotation)
    assert np.abs(ours[0] - GOLDEN[name]).max() < 1e-5 * SIZE
    assert np.abs(ours[1] - ours[0] - [0, 0, 3 * SIZE / 200 / SCALE]).max() < 1e-9


def test_decode_is_short_by_a_pixel_as_the_original_s():
    back = transforms.to_image("reference", GOLDEN["pts_in_crop"], CENTER, 200 * SCALE, SIZE)
    assert np.abs(back - GOLDEN["pts_back_from_crop"]).max() < 1e-5 * np.abs(back).max()
    assert np.abs(back[:, :2] - POINTS[:68, :2] + 200 * SCALE / SIZE).max() < 1e-4
    landmarks = GOLDEN["landmarks"][:, :68].astype(np.float64)
    ours = transforms.to_image("reference", landmarks, np.stack([CENTER] * 2), np.full(2, 200 * SCALE), SIZE)
    assert np.abs(ours - GOLDEN["landmarks_in_image"]).max() < 1e-5 * np.abs(ours).max()


def test_volumes_of_points():
    volumes, _ = reference_volumes()
    for index, volume in enumerate(volumes):
        assert not np.any(volume[1])
        ours, theirs = sampled(f"target{index}", np.asarray(volume[0]).transpose(2, 0, 1))
        assert np.abs(ours - theirs).max() < 1e-5
        assert int((volume[0] > 0).sum()) == GOLDEN[f"target{index}_nnz"]
        slices = np.asarray(volume[0], np.float64).sum((0, 1))
        np.testing.assert_allclose(slices, GOLDEN[f"target{index}_sum_per_slice"], rtol=1e-5)


def test_losses_of_both_phases(outputs):
    volumes, coordinates, from_truth = outputs
    true, points = reference_volumes()
    target_volumes = [np.stack([np.asarray(volume[0])] * 2) for volume in true]
    voxel = losses.volume_loss([volume.transpose(0, 2, 3, 1) for volume in volumes], target_volumes)
    target, valid = np.stack([points] * 2) / 255, np.ones((2, 71), bool)
    coordinate = losses.coordinate_loss(coordinates, target, valid)
    assert float(voxel) == pytest.approx(float(GOLDEN["loss_vox"]), rel=1e-5)
    assert float(coordinate) == pytest.approx(float(GOLDEN["loss_coord"]), rel=1e-5)
    assert float(coordinate + 0.1 * voxel) == pytest.approx(float(GOLDEN["loss_total"]), rel=1e-5)
    pretraining = losses.coordinate_loss(from_truth[:1], target[:1], valid[:1])
    assert float(pretraining) == pytest.approx(float(GOLDEN["loss_coord_pretrain"]), rel=1e-5)


def test_errors():
    valid, truth = np.ones(68, bool), GOLDEN["pts"]
    (predicted,) = GOLDEN["metric_pred"]
    assert metrics.box_error(predicted, truth, valid) == pytest.approx(float(GOLDEN["nme_bbox3d"]), rel=1e-5)
    assert metrics.ground_truth_error(predicted, truth, valid) == pytest.approx(float(GOLDEN["gte"]), rel=1e-5)


@pytest.mark.parametrize("name, rotation", [("crop", 0.0), ("crop_rot25", 25.0)])
def test_reference_crops_stretch_the_contrast(name, rotation):
    pixels = 0.2 + 0.5 * weights.image("jvcr_photo", (1, 300, 280, 3))[0]
    crop = framing.reference_crop(pixels, np.array([150.0, 140.0]), 1.1, SIZE, rotation)
    ours, theirs = sampled(name, crop.transpose(2, 0, 1))
    assert np.abs(ours - theirs).max() < 1.001 / 255
    assert np.allclose([crop.min(), crop.max()], GOLDEN[f"{name}_minmax"], atol=1 / 255)
