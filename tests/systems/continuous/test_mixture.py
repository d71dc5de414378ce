"""Training on data sets of several layouts: what is asked, which labels count, and in which order examples come."""

import functools
import types

import annotated_faces
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.continuous import get_config
from jaxface import checkpoint, evaluation, metric_writer, pretrained, training
from jaxface.data import datasets
from jaxface.data.prepare import prepare
from jaxface.errors import UserError
from jaxface.heads import canonical
from jaxface.layouts import LAYOUTS
from jaxface.systems import continuous
from jaxface.systems.continuous import (
    data,
    deformer,
    face_extent,
    layout_search,
    losses,
    metrics,
    model,
    own_layouts,
    query_table,
)
from jaxface.systems.continuous.query_table import QuerySet

SIZE = 64
NAMES = ("300w", "wflw", "cofw", "lapa")
NO_OFFSETS = losses.OffsetTable((), (), 0.0)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("mixture")
    found = annotated_faces.faces(10, size=96)
    for name in NAMES:
        getattr(annotated_faces, f"write_{name}")(root / name, found)
        prepare(name, str(root / "data"), str(root / name))
    return str(root / "data")


def mixed_config(data_dir: str, **changes):
    config = get_config("smoke")
    config.data.update(dir=data_dir, datasets=NAMES, evaluate=NAMES, shares=(1, 2, 1, 1))
    config.update_from_flattened_dict(changes)
    return config


def template_face(layout: str) -> np.ndarray:
    """Points (K,2) px of a frontal face in an image of 200 px."""
    return canonical.queries(layout)[:, :2] * [60, -60] + [100, 90]


def photo(layout: str, **more) -> dict:
    image = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    return {"image": image, "landmarks": np.float32(template_face(layout)), **more}


def queries_of(layout: str) -> QuerySet:
    return QuerySet(layout, canonical.queries(layout), LAYOUTS[layout])


@pytest.mark.parametrize("shares", [(1, 1), (2, 3, 2), (0.5, 0.25), (1, 700, 901)])
def test_examples_follow_the_shares_at_every_position(shares):
    pattern = datasets.mixing_pattern(shares, len(shares))
    wanted = np.array(shares) / np.sum(shares)
    for position in range(1, 3 * len(pattern)):
        taken = datasets._examples_before(pattern, position)
        assert np.abs(taken - wanted * position).max() < len(shares)
        assert taken.sum() == position


@pytest.mark.parametrize("shares", [(1,), (1, 0), (1, -2), (1, np.nan), (1, 2, 3)])
def test_shares_that_do_not_match_are_one_line(shares):
    with pytest.raises(UserError, match="config.data.shares: .*give one positive number for each"):
        datasets.mixing_pattern(shares, 2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels_follow_the_crop_and_the_mirror_in_every_layout(layout):
    """The network's answer for the queries of an example, here the exact projection of the template, is its labels."""
    for seed in range(6):
        example = data.preprocess_train(photo(layout), seed, SIZE, 8, queries_of(layout))
        assert example["valid"].all() and example["asked"].all() and len(example["points"]) == LAYOUTS[layout].count
        design = np.c_[example["queries"][:, :2], np.ones(len(example["queries"]))]
        fitted = design @ np.linalg.lstsq(design, example["points"], rcond=None)[0]
        np.testing.assert_allclose(fitted, example["points"], atol=1e-4)


def test_labels_of_another_length_than_the_layout_are_one_line():
    with pytest.raises(UserError, match="an example has 68 landmarks, its layout 98; correct its layout"):
        data.preprocess_train(photo("68"), 0, SIZE, 8, queries_of("98"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_layouts_frame_a_face_in_the_same_way(layout):
    points, everything = template_face(layout), np.ones(LAYOUTS[layout].count, bool)
    expected = face_extent.face_box(template_face("68"), np.ones(68, bool), canonical.queries("68"))
    box = face_extent.face_box(points, everything, canonical.queries(layout))
    np.testing.assert_allclose(box, expected, atol=0.06 * (expected[2] - expected[0]))


def test_unlabelled_points_do_not_count():
    """NaN, `valid` of the record, and points far outside the crop."""
    example = photo("68", valid=np.arange(68) != 20)
    example["landmarks"][[3, 50]] = np.nan
    example["landmarks"][8] = 100, 900
    made = data.preprocess_train(example, 0, SIZE, 8, queries_of("68"))
    assert np.isfinite(made["points"]).all() and made["asked"].all()
    assert not made["valid"][[3, 8, 20, 50]].any()


def test_batches_of_several_layouts_are_padded():
    parts = [
        {name: array[None] for name, array in data.preprocess_train(photo(name), 1, SIZE, 8, queries_of(name)).items()}
        for name in ("29", "98", "68")
    ]
    widths = (29, 98, 68, 300)
    batch = data.collate(parts, (0, 1, 2), widths)
    assert batch["queries"].shape == (3, 128, 3) and batch["asked"].sum(1).tolist() == [29, 98, 68]
    assert not batch["valid"][0, 29:].any() and (batch["valid"] <= batch["asked"]).all()
    assert data.collate(parts[:1], (0,), widths)["queries"].shape == (1, 29, 3)
    # On several hosts the batch of all decides.
    assert data.collate(parts[:1], (0, 3), widths)["queries"].shape == (1, 384, 3)


@pytest.mark.parametrize("predictor", ["mlp", "soft_argmax", "transformer", "xca", "mhsa"])
def test_what_does_not_count_touches_neither_loss_nor_gradient(predictor):
    """Labels that are NaN, and queries that are arbitrary, where a label does not count or a query is not asked."""
    settings = get_config("smoke")
    settings.model.update(image_size=32, pool="map" if predictor == "soft_argmax" else "mean", feature_width=16)
    settings.model.update(predictor=predictor, heads=4, width=32)
    net = model.model_from_config(settings.model)
    rng = np.random.default_rng(0)
    # Sampled with numpy: compiling the initialisers takes longer than the test.
    shapes = jax.eval_shape(functools.partial(model.init, net, 32), jax.random.key(0))
    params, model_state = jax.tree.map(lambda leaf: 0.2 * rng.random(leaf.shape, np.float32), shapes)
    asked, valid = np.arange(12)[None] < [[12], [8]], np.ones((2, 12), bool)
    valid[0, 9:] = valid[1, :2] = False
    batch = {
        "image": rng.random((2, 32, 32, 3), np.float32),
        "queries": rng.normal(size=(2, 12, 3)).astype(np.float32),
        "points": rng.uniform(-1, 1, (2, 12, 2)).astype(np.float32),
        "valid": valid, "asked": asked, "dataset": np.zeros(2, np.int32), "mirrored": np.zeros(2, bool),
    }  # fmt: skip
    counts = (asked & valid)[..., None]
    changed = {**batch, "points": np.where(counts, batch["points"], np.float32(np.nan))}
    changed["queries"] = np.where(counts, batch["queries"], np.float32(1e3)).astype(np.float32)

    def loss(params, batch):
        key, step = jax.random.key(1), jnp.int32(5000)
        total, (updated, _) = losses.training_loss(
            net, settings.loss, NO_OFFSETS, params, model_state, batch, key, step, {}
        )
        return total, updated

    graded = jax.jit(jax.vmap(jax.value_and_grad(loss, has_aux=True), (None, 0), axis_name="data"))
    results = [jax.device_get(graded(params, jax.tree.map(lambda x: x[None], one))) for one in (batch, changed)]
    jax.tree.map(np.testing.assert_array_equal, *results)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(results[1]))


def test_offsets_move_the_queries_of_their_data_set_only():
    one = queries_of("29")
    offsets = np.random.default_rng(0).normal(size=(29, 3)).astype(np.float32)
    params = {"offsets": {query_table.offset_key("29"): offsets}}
    table = query_table.offset_table(params, [one], ("68", "29"), 32)
    moved = query_table.moved_queries(jnp.zeros((3, 32, 3)), table[np.array([0, 1, 1])], jnp.array([0, 0, 1], bool))
    assert not moved[0].any() and not moved[1, 29:].any()
    # Mirrored images ask for the mirrored points.
    np.testing.assert_allclose(moved[2, :29], moved[1, :29] * np.array([-1, 1, 1]))
    np.testing.assert_allclose(moved[2, :29][one.layout.flip], moved[1, :29], atol=1e-6)


def test_training_on_four_layouts_resumes_and_scores_each(data_dir, tmp_path):
    config = mixed_config(data_dir, **{"steps": 6, "save_every": 3, "eval_every": 6, "data.offsets": True})
    config.optim.warmup = 1
    straight = training.fit(continuous.build(config), config, tmp_path / "straight")
    lines = metric_writer.read(tmp_path / "straight")
    assert all(np.isfinite(value) for line in lines for value in line.values())
    for name in NAMES:
        assert {"nme", "nme_box", "failure_rate_8", "auc_10"} <= {
            key.rpartition("/")[2] for key in lines[-1] if key.startswith(f"{name}/")
        }
    assert "wflw/nme_pose" in lines[-1]
    stopped = config.copy_and_resolve_references()
    stopped.steps, stopped.optim.schedule = 6, "cosine"
    (tmp_path / "resumed").mkdir()
    with pytest.raises(RuntimeError, match="stopped"):
        training.fit(interrupted(continuous.build(stopped), 4), stopped, tmp_path / "resumed")
    assert checkpoint.steps(tmp_path / "resumed") == [3]
    resumed = training.fit(continuous.build(stopped), stopped, tmp_path / "resumed")
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(resumed.params), jax.device_get(straight.params))
    offsets = straight.params["offsets"]
    assert set(offsets) == {"wflw", "cofw", "lapa"} and np.abs(offsets["lapa"]).max() > 0
    resolved = continuous.resolve(config)
    assert resolved.layouts["cofw"].name == "29"
    scores = evaluation.evaluate(continuous.build(resolved), resolved, tmp_path / "straight", ["300w"])
    assert scores["300w"]["nme"] == pytest.approx(lines[-1]["300w/nme"], rel=1e-3)


def interrupted(system, after: int):
    """The system with a data stream that fails after some batches."""

    def train_data(step):
        for number, batch in enumerate(system.train_data(step)):
            if number == after:
                raise RuntimeError("stopped")
            yield batch

    return functools.partial(type(system), **{**vars(system), "train_data": train_data})()


@pytest.mark.parametrize(
    ("shapes", "message"),
    [({}, "has no images"), ({"image": (8, 8, 3)}, "no landmarks"),
     ({"image": (40, 8, 3), "landmarks": (5, 68, 2)}, "has no landmarks of one face an image")],
)  # fmt: skip
def test_sets_that_cannot_be_trained_on_are_one_line(shapes, message, monkeypatch):
    features = {name: types.SimpleNamespace(shape=shape) for name, shape in shapes.items()}
    builder = types.SimpleNamespace(info=types.SimpleNamespace(features=features))
    monkeypatch.setattr(datasets, "open_split", lambda *_: datasets.Split(builder, "train"))
    with pytest.raises(UserError, match=message):
        data.open_labelled(mixed_config(""), "rendered_sets/makehuman", "train")


def test_missed_faces_are_failures_and_unlabelled_ones_are_left_out():
    arrays = {
        "nme_interocular": np.array([0.02, 0.09, np.nan, 0.04]),
        "nme_interpupil": np.array([0.03, 0.12, np.nan, 0.05]),
        "nme_box": np.array([0.01, 0.05, 0.03, 0.02]),
        "found": np.array([True, True, True, False]),
        "subset_blur": np.array([False, True, True, False]),
    }
    summary = metrics.summarise(arrays)
    assert summary["nme"] == pytest.approx(5.5) and summary["nme_interpupil"] == pytest.approx(7.5)
    assert summary["failure_rate_8"] == pytest.approx(200 / 3) and summary["failure_rate_10"] == pytest.approx(100 / 3)
    assert summary["missed"] == 25 and summary["nme_blur"] == pytest.approx(9)
    assert summary["auc_10"] == pytest.approx(100 * (0.8 + 0.1 + 0) / 3)


def test_norms_of_an_example():
    points = template_face("68")
    found = data.norms({}, points, np.ones(68, bool), queries_of("68"), 0.5)
    assert found["norm_interocular"] == pytest.approx(np.linalg.norm(points[36] - points[45]) / 2, rel=1e-5)
    assert found["norm_box"] == pytest.approx(np.sqrt(np.ptp(points, axis=0).prod()) / 2, rel=1e-5)
    without = data.norms({"box": np.array([0, 0, 8, 2])}, points[:19], np.ones(19, bool), queries_of("19"), 1.0)
    assert np.isnan(without["norm_interocular"]) and without["norm_box"] == 4


def test_the_deformer_moves_every_data_set_but_the_reference_and_follows_the_mirror():
    config = get_config("smoke")
    config.data.update(datasets=("rendered_heads/makehuman", "300w", "wflw"), deformer=True)
    found = query_table.deformer_of(config)
    assert found.learned == (False, True, True)
    params = {deformer.DEFORMER: found.init(jax.random.key(0))}
    queries, number = jnp.asarray(canonical.queries("68"))[None].repeat(3, 0), jnp.arange(3)
    assert not np.abs(found.displacements(params, queries, number)).any()
    params[deformer.DEFORMER]["last"]["kernel"] = 0.1 * jax.random.normal(jax.random.key(1), (64, 3))
    moved = found.displacements(params, queries, number)
    assert not np.abs(moved[0]).any() and np.abs(moved[1]).max() > 1e-3 and np.abs(moved[1] - moved[2]).max() > 1e-3
    mirror = np.float32([-1, 1, 1])
    np.testing.assert_allclose(found.displacements(params, queries * mirror, number), moved * mirror, atol=1e-6)
    points = query_table.corrected_points(found, params, QuerySet("wflw", canonical.queries("68"), LAYOUTS["68"]))
    np.testing.assert_allclose(points, queries[2] + moved[2], atol=1e-6)
    config.data.datasets = ("rendered_heads/makehuman",)
    assert query_table.deformer_of(config) is None


def test_the_points_of_a_layout_are_found_with_the_pretrained_model(data_dir, monkeypatch):
    """What `launch.layout` stores; symmetric labels keep their flip map."""
    config = get_config("own")
    config.data.dir = data_dir
    monkeypatch.setattr(layout_search, "STEPS", 30)
    monkeypatch.setattr(layout_search, "CANDIDATES", 200)
    entry, errors = own_layouts.find(*pretrained.load(config.init), "lapa", config.data)
    points = np.asarray(entry["points"])
    assert errors.shape == (106,) and entry["flip"] == tuple(LAYOUTS["106"].flip)
    np.testing.assert_allclose(points[LAYOUTS["106"].flip] * [-1, 1, 1], points, atol=1e-4)
    assert np.median(np.linalg.norm(points - canonical.queries("106"), axis=1)) < 0.12
