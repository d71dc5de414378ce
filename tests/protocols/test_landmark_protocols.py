"""AFLW2000-3D, GTE, CVGTCE and the cross-domain table on fixtures in the benchmarks' layouts, checked independently."""

import numpy as np
import pytest
import scipy.io
from PIL import Image
from scipy.spatial.transform import Rotation

from jaxface import crops, evaluation, parallel, system
from jaxface.errors import UserError
from jaxface.heads import canonical
from jaxface.inference import Predictor
from jaxface.protocols import aflw2000, cross_domain, faw3d
from jaxface.protocols.protocol import Request
from tests.data import test_annotated_sets as annotated

RNG = np.random.default_rng(3)
SIZE = 96


def random_predictor(name: str) -> Predictor:
    """The smoke configuration of a system with random parameters."""
    import importlib

    import jax

    config = system.resolve(importlib.import_module(f"configs.{name}").get_config("smoke"), "smoke")
    built = system.build(config, "smoke")
    return Predictor(config, built, *jax.jit(built.init)(jax.random.key(0)), "random")


@pytest.fixture(scope="module")
def jvcr() -> Predictor:
    return random_predictor("jvcr")


def write_image(path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 255, (SIZE, SIZE, 3), np.uint8)).save(path)


def face(yaw_deg: float, shape: np.ndarray | None = None) -> np.ndarray:
    """Landmarks (68,3) px, y down, z towards the viewer, of a turned template face."""
    template = canonical.queries("68") * [1, -1, 1] if shape is None else shape
    turn = Rotation.from_euler("y", yaw_deg, degrees=True).as_matrix()
    return 40 * template @ turn.T + [50, 50, 0]


def write_aflw2000(root) -> dict[str, tuple[np.ndarray, float]]:
    truths = {"image00002": (face(10.0), -10.0), "image00004": (face(30.0), 30.0), "image00006": (face(-70.0), 70.0)}
    for name, (points, yaw) in truths.items():
        write_image(root / f"{name}.jpg")
        pose = np.deg2rad([[0.0, yaw, 0.0, 0, 0, 0, 0]])
        scipy.io.savemat(root / f"{name}.mat", {"pt3d_68": points.T, "Pose_Para": pose, "pt2d": -np.ones((2, 21))})
    return truths


def test_aflw2000_is_the_mean_of_three_yaw_bins(tmp_path, jvcr):
    truths = write_aflw2000(tmp_path)
    outcome = aflw2000.run(Request(tmp_path, tmp_path, jvcr))
    expected = {}
    for name, (truth, _) in truths.items():
        box = crops.extent_boxes(truth[None, :, :2])[0]
        points = jvcr(str(tmp_path / f"{name}.jpg"), box)[0].points
        x, y = truth[:, 0], truth[:, 1]
        norm = ((x.max() - x.min()) * (y.max() - y.min())) ** 0.5
        expected[name] = 100 * np.mean([np.hypot(*(p - t)) for p, t in zip(points, truth[:, :2], strict=True)]) / norm
    easy = (expected["image00002"] + expected["image00004"]) / 2
    assert outcome.table["yaw_0_30"]["nme"] == pytest.approx(easy, abs=1e-6)
    assert outcome.table["yaw_60_90"]["nme"] == pytest.approx(expected["image00006"], abs=1e-6)
    assert outcome.table["mean_of_bins"]["nme"] == pytest.approx((easy + expected["image00006"]) / 2, abs=1e-6)
    assert outcome.table["all"]["images"] == 3 and "yaw_30_60" not in outcome.table
    assert outcome.items[0].draw().ndim == 3


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`source` under the least-squares similarity to `target`, by scipy's Kabsch and the closed form of the scale."""
    centered, goal = source - source.mean(0), target - target.mean(0)
    turn = Rotation.align_vectors(goal, centered)[0].as_matrix()
    turned = centered @ turn.T
    return (turned * goal).sum() / (turned**2).sum() * turned + target.mean(0)


def test_gte_and_cvgtce_of_3dfaw(tmp_path, jvcr):
    """Two faces, the first in two views, whose truths differ by a similarity; the third image is alone."""
    kept = np.delete(np.arange(68), faw3d.faw3d_files.ABSENT)
    other_shape = canonical.queries("68") * [1, -1, 1] + RNG.normal(0, 0.05, (68, 3))
    truths = {"a_left": face(-20.0), "a_right": 1.3 * face(25.0) - 10, "b": face(5.0, other_shape)}
    for name, truth in truths.items():
        write_image(tmp_path / "test" / f"{name}.jpg")
        np.savetxt(tmp_path / "test" / f"{name}_lm.csv", truth[kept], delimiter=",", fmt="%.9g")
    views = faw3d.read_views(tmp_path)
    assert sorted(map(sorted, faw3d.faces_of(tmp_path, views))) == [["a_left", "a_right"]]
    points = {}
    for name in truths:
        box = crops.extent_boxes(views[name].truth[None, :, :2])[0]
        points[name] = jvcr(str(tmp_path / "test" / f"{name}.jpg"), box)[0].points_3d.astype(float)[kept]
    gte, cvgtce = [], []
    for name, truth in truths.items():
        truth = views[name].truth[kept]
        moved = points[name] + [0, 0, (truth - points[name])[:, 2].mean()]
        eyes = np.linalg.norm(views[name].truth[36] - views[name].truth[45])
        gte.append(100 * np.linalg.norm(moved - truth, axis=1).mean() / eyes)
    for name, other in (("a_left", "a_right"), ("a_right", "a_left")):
        truth = views[other].truth
        residual = np.linalg.norm(similarity(points[name], truth[kept]) - truth[kept], axis=1)
        cvgtce.append(100 * residual.mean() / np.linalg.norm(truth[36] - truth[45]))
    outcome = faw3d.run_gte(Request(tmp_path, tmp_path, jvcr))
    assert outcome.table["all"]["gte"] == pytest.approx(np.mean(gte), abs=1e-6)
    assert np.isfinite(outcome.table["all"]["nme_2d"])
    crossed = faw3d.run_cvgtce(Request(tmp_path, tmp_path, jvcr))
    assert crossed.table["all"]["cvgtce"] == pytest.approx(np.mean(cvgtce), abs=1e-6)
    assert crossed.table["all"]["images"] == 2 and crossed.table["all"]["pairs"] == 2
    (tmp_path / faw3d.VIEWS).write_text("a_left b\n")
    assert faw3d.faces_of(tmp_path, views) == [["a_left", "b"]]
    (tmp_path / faw3d.VIEWS).write_text("a_left c\n")
    with pytest.raises(UserError, match="views.txt: c is not a labelled test image"):
        faw3d.faces_of(tmp_path, views)


def test_gte_reads_aflw2000_by_yaw(tmp_path, jvcr):
    write_aflw2000(tmp_path)
    gte, flat = faw3d.run_gte(Request(tmp_path, tmp_path, jvcr)), aflw2000.run(Request(tmp_path, tmp_path, jvcr))
    for row in ("all", "yaw_0_30", "yaw_60_90"):
        assert gte.table[row]["nme_2d"] == pytest.approx(flat.table[row]["nme"], abs=1e-6)


def test_a_system_without_depth_is_refused(tmp_path):
    write_aflw2000(tmp_path)
    with pytest.raises(UserError, match="finds no depth"):
        faw3d.run_gte(Request(tmp_path, tmp_path, random_predictor("continuous")))


def test_cross_domain_table(tmp_path):
    root = tmp_path / "sets"
    for folder, write, extra in (
        ("300W", annotated.write_300w, {"scale": 1.3}),
        ("WFLW", annotated.write_wflw, {"protocol": True}),
        ("COFW", annotated.write_cofw, {"protocol": True}),
    ):
        (root / folder).mkdir(parents=True)
        write(root / folder, **extra)
    predictor = random_predictor("pipnet")
    assert predictor.config.model.landmarks == 68
    outcome = cross_domain.run(Request(root, tmp_path, predictor))
    assert list(outcome.table) == list(cross_domain.SETS)
    whole, common, challenge = (outcome.table[name]["nme_crop"] for name in ("300w", "300w_common", "300w_challenge"))
    assert whole == pytest.approx((2 * common + challenge) / 3, abs=1e-4)
    assert [len(outcome.curves[name]) for name in cross_domain.SETS] == [3, 2, 1, 2, 2]
    # The same numbers by the evaluator of training.
    config = predictor.config.copy_and_resolve_references()
    config.data.dir, config.data.evaluate, config.data.eye_corners = str(tmp_path / "data"), ("wflw/68:test",), (36, 45)
    built = system.build(config, "test")
    state = [parallel.replicate(tree, "pmap") for tree in (predictor.params, predictor.model_state, built.constants())]
    again, _ = evaluation.compile_score(built.evaluators["wflw/68:test"], "pmap")(*state)
    assert outcome.table["wflw_68"] == again
    # And by hand from the network's own output.
    known = []
    for batch in built.evaluators["wflw/68:test"].data():
        points = predictor.raw({"image": batch["image"]})["landmarks"].astype(np.float64)
        distance = np.linalg.norm(points - batch["landmarks"], axis=-1).mean(-1)
        eyes = np.linalg.norm(batch["landmarks"][:, 36] - batch["landmarks"][:, 45], axis=-1)
        known += [*(distance / eyes)[batch["mask"] > 0]]
    np.testing.assert_allclose(outcome.curves["wflw_68"] / 100, known, rtol=1e-6, atol=1e-6)
    assert outcome.items[0].draw().shape[-1] == 3
