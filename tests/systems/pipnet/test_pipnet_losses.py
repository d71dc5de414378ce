"""Neighbours, targets, losses and metrics against the official code's numbers; messages for bad mean faces."""

import json

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from jaxface.errors import UserError
from jaxface.systems.pipnet import decoding, losses, metrics
from tests import weights

AUX = np.load(weights.GOLDEN / "pipnet_aux_golden.npz")
MEAN_FACES = json.loads((weights.GOLDEN / "pipnet_meanfaces.json").read_text())
SETTINGS = ml_collections.ConfigDict({"map": "l2", "offset": "l1", "map_weight": 10.0, "offset_weight": 1.0})
NAMES = ("map", "x", "y", "nb_x", "nb_y")


def table(name, count=10):
    return decoding.neighbor_table(np.reshape(MEAN_FACES[name], (-1, 2)), count)


def predictions(keys, names, landmarks, batch, sizes):
    """The official code's maps (B,C,g,g) in our layout."""
    maps = {}
    for key, name, size in zip(keys, names, sizes, strict=True):
        channels = landmarks * (10 if name.startswith("nb") else 1)
        maps[name] = jnp.asarray(weights.array(key, (batch, channels, size, size), 0.3).transpose(0, 2, 3, 1))
    return maps


@pytest.mark.parametrize("name", MEAN_FACES)
def test_neighbors_and_votes_are_the_official_ones(name):
    neighbors = table(name)
    np.testing.assert_array_equal(neighbors, AUX[f"{name}_nb"])
    votes = decoding.votes(neighbors)
    longest = int(AUX[f"{name}_maxlen"])
    index = AUX[f"{name}_rev1"] * 10 + AUX[f"{name}_rev2"]
    np.testing.assert_array_equal(votes.index, index.reshape(-1, longest))
    np.testing.assert_allclose(votes.weight, 1 / (longest + 1), rtol=1e-6)
    np.testing.assert_allclose(votes.own_weight, 1 / (longest + 1), rtol=1e-6)


def test_mean_merge_counts_each_vote_once():
    neighbors = table("WFLW")
    votes = decoding.votes(neighbors, "mean")
    for landmark in (0, 32, 60):
        voters = decoding.voters(neighbors)[landmark]
        used = votes.weight[landmark] > 0
        np.testing.assert_array_equal(votes.index[landmark][used], voters)
        np.testing.assert_allclose(votes.weight[landmark][used], 1 / (len(voters) + 1), rtol=1e-6)
    np.testing.assert_allclose(votes.weight.sum(1) + votes.own_weight, 1, rtol=1e-6)


def test_targets():
    points = AUX["target_landmarks"]
    target = losses.targets(jnp.asarray(points, jnp.float32), table("WFLW"), 8)
    np.testing.assert_array_equal(target["cell"], AUX["target_map_argmax"])
    np.testing.assert_array_equal(target["cls"].reshape(2, 64, 98).argmax(1), AUX["target_map_argmax"])
    assert float(target["cls"].sum()) == AUX["target_map_sum"]
    for name, values in {"x": target["own"][..., 0], "nby": target["neighbors"][..., 1]}.items():
        np.testing.assert_allclose(np.asarray(values, np.float64).sum(), AUX[f"target_{name}_sum"], rtol=1e-6)
        np.testing.assert_allclose(
            np.abs(np.asarray(values, np.float64)).sum(), AUX[f"target_{name}_abssum"], rtol=1e-6
        )


def test_decoding_the_targets_returns_the_landmarks():
    points = np.random.default_rng(0).uniform(-0.1, 1.1, (3, 98, 2)).astype(np.float32)
    target = losses.targets(jnp.asarray(points), table("WFLW"), 4)
    scores = target["cls"]
    maps = {"cls": scores}
    for axis, name in enumerate(("x", "y")):
        neighbors = target["neighbors"][:, None, None, ..., axis]
        maps[name] = scores * target["own"][:, None, None, :, axis]
        maps[f"nb_{name}"] = (scores[..., None] * neighbors).reshape(3, 4, 4, -1)
    outputs = decoding.decode(maps, decoding.votes(table("WFLW")))
    for name in ("landmarks", "landmarks_own"):
        np.testing.assert_allclose(outputs[name], points, atol=1e-5)
    np.testing.assert_allclose(outputs["spread"], 0, atol=1e-5)
    np.testing.assert_array_equal(outputs["scores"], 1)


def test_spread_is_the_standard_deviation_of_the_votes():
    counts = {"cls": 5, "x": 5, "y": 5, "nb_x": 10, "nb_y": 10}
    maps = {name: weights.array(f"pipnet.{name}", (2, 3, 3, count)) for name, count in counts.items()}
    votes = decoding.votes(np.array([[1, 2], [2, 3], [3, 4], [4, 0], [0, 1]]), "mean")
    outputs = jax.jit(decoding.decode)(maps, votes)
    flat = np.reshape(outputs["neighbors"], (2, 10, 2))
    for landmark in range(5):
        predictions = np.concatenate([outputs["landmarks_own"][:, landmark, None], flat[:, votes.index[landmark]]], 1)
        np.testing.assert_allclose(outputs["landmarks"][:, landmark], predictions.mean(1), atol=1e-5)
        np.testing.assert_allclose(outputs["spread"][:, landmark] ** 2, predictions.var(1).sum(-1), rtol=1e-4)


def test_supervised_losses():
    keys = [f"pipnet_pred_{key}" for key in ("c", "x", "y", "nx", "ny")]
    maps = predictions(keys, ("cls", "x", "y", "nb_x", "nb_y"), 98, 2, [8] * 5)
    points = jnp.asarray(AUX["target_landmarks"], jnp.float32)
    result = jax.jit(lambda points: losses.supervised(maps, points, table("WFLW"), SETTINGS))(points)
    np.testing.assert_allclose([result[name] for name in NAMES], AUX["losses"], rtol=1e-6)
    total = 10 * result["map"] + sum(result[name] for name in NAMES[1:])
    np.testing.assert_allclose(total, AUX["loss_total"], rtol=1e-6)


def test_curriculum_losses():
    names = ("cls", "cls2", "cls3", "x", "y", "nb_x", "nb_y")
    keys = [f"pipnet_gssl_pred_{number}" for number in range(7)]
    maps = predictions(keys, names, 68, 4, (8, 4, 2, 8, 8, 8, 8))
    points = jnp.asarray(AUX["gssl_target_landmarks"], jnp.float32)
    face = table("data_300W_CELEBA")
    curriculum = jax.jit(lambda task: losses.curriculum(maps, points, task, face, SETTINGS))
    result = curriculum(jnp.arange(4))
    np.testing.assert_allclose([result[name] for name in NAMES], AUX["gssl_losses"], rtol=1e-6)
    standard = curriculum(jnp.zeros(4, int))
    for name, value in jax.jit(lambda points: losses.supervised(maps, points, face, SETTINGS))(points).items():
        np.testing.assert_allclose(standard[name], value, rtol=1e-6)
    coarse = curriculum(jnp.full(4, 3))
    assert coarse["x"] == 0 and np.isfinite(coarse["map"])


def test_errors_failures_and_area():
    truth = AUX["target_landmarks"][0]
    points = weights.array("pipnet_nme_a", (98, 2), 0.01) + truth
    eyes = truth[60] - truth[72]
    size = np.array([200.0, 100.0])
    batch = {"landmarks": truth[None], "crop_px": size[None], "norm_crop": np.linalg.norm(eyes)[None]}
    batch["norm_px"] = np.linalg.norm(eyes * size)[None]
    errors = metrics.errors(points[None], batch)
    np.testing.assert_allclose(errors["nme_crop"], AUX["nme"], rtol=1e-6)
    pixels = np.linalg.norm((points - truth) * size, axis=-1).mean() / batch["norm_px"]
    np.testing.assert_allclose(errors["nme_pixels"], pixels, rtol=1e-6)
    np.testing.assert_allclose(metrics.sampled_failure_and_auc(AUX["nmes"]), [AUX["fr"], AUX["auc"]], atol=1e-9)


def test_bad_mean_faces():
    with pytest.raises(UserError, match="has 4 numbers; 98 landmarks need 196"):
        decoding.check_meanface((0.0, 1.0, 2.0, 3.0), 98)
    with pytest.raises(UserError, match="not finite"):
        decoding.check_meanface((0.0, np.nan), 1)
    far = np.array([[0, 0], [0.1, 0], [0, 0.1], [5, 5]])
    with pytest.raises(UserError, match="landmark 3 is not a neighbour of any other"):
        decoding.votes(decoding.neighbor_table(far, 2))
    with pytest.raises(UserError, match="config.model.merge"):
        decoding.votes(decoding.neighbor_table(far, 3), "median")


def test_missing_points_count_neither_in_the_loss_nor_in_the_error():
    """A loss with missing points is the mean over the others; its gradient is finite and does not reach their maps."""
    rng, table_of_two = np.random.default_rng(0), np.array([[1, 2], [0, 2], [0, 1]])
    counts = {"cls": 3, "x": 3, "y": 3, "nb_x": 6, "nb_y": 6}
    maps = {name: jnp.asarray(rng.normal(size=(2, 4, 4, count)), jnp.float32) for name, count in counts.items()}
    points = rng.uniform(0, 1, (2, 3, 2)).astype(np.float32)
    points[1, 2] = np.nan

    def total(maps, points):
        return sum(losses.supervised(maps, jnp.asarray(points), table_of_two, SETTINGS).values())

    gradient = jax.grad(total)(maps, points)
    assert all(np.isfinite(values).all() for values in gradient.values())
    assert not np.asarray(gradient["cls"])[1, ..., 2].any() and np.asarray(gradient["cls"])[0, ..., 2].any()
    assert not np.asarray(gradient["nb_x"])[1, ..., [1, 3, 4, 5]].any()  # neighbours that are, or belong to, point 2
    target = losses.targets(jnp.nan_to_num(points), table_of_two, 4)
    errors = np.square(maps["cls"] - target["cls"])
    valid = np.isfinite(points).all(-1)
    expected = errors.sum((1, 2))[valid].sum() / (16 * valid.sum())
    np.testing.assert_allclose(losses.supervised(maps, points, table_of_two, SETTINGS)["map"], expected, rtol=1e-5)
    task = jnp.zeros(2, jnp.int32)
    grids = {**maps, "cls2": maps["cls"][:, ::2, ::2], "cls3": maps["cls"][:, ::4, ::4]}
    by_task = losses.curriculum(grids, jnp.asarray(points), task, table_of_two, SETTINGS)
    np.testing.assert_allclose(by_task["map"], expected, rtol=1e-5)
    batch = {"landmarks": points, "crop_px": np.full((2, 2), 10.0), "norm_crop": np.ones(2), "norm_px": np.ones(2)}
    scored = metrics.errors(jnp.nan_to_num(points) + jnp.asarray([3.0, 4.0]), batch)
    np.testing.assert_allclose(scored["nme_crop"], 5, rtol=1e-6)
    arrays = {name: np.asarray(value) for name, value in scored.items()} | {
        "landmarks": points,
        "norm_crop": np.ones(2),
    }
    assert np.isfinite(list(metrics.summarise(arrays).values())).all()
