"""Builders of data sets with 3D points, from tiny fixtures in the original layout; error messages."""

import json

import numpy as np
import pytest
import scipy.io
from PIL import Image

from configs.deep3d import get_config as deep3d_config
from configs.jvcr import get_config
from jaxface.data import bfm_landmarks, stream
from jaxface.data.prepare import prepare
from jaxface.errors import UserError
from jaxface.heads import canonical
from jaxface.system import unit_images
from jaxface.systems.deep3d import data as deep3d_data
from jaxface.systems.jvcr import data, transforms

VERTICES, HEIGHT = 90, 60
DRAW = np.random.default_rng(5)
MEAN = DRAW.normal(0, 5e4, (VERTICES + 10, 3))
SHAPE, EXPRESSION = DRAW.normal(0, 1e-2, (3 * VERTICES + 30, 199)), DRAW.normal(0, 1e3, (3 * VERTICES, 29))
KEPT = np.sort(DRAW.permutation(VERTICES + 10)[:VERTICES])
KEYPOINTS = DRAW.permutation(VERTICES)[:68]


def write_photo(path, size=(80, HEIGHT)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(DRAW.integers(0, 255, (size[1], size[0], 3), np.uint8)).save(path)


def morphable_model(folder, whole):
    """The user's files: the cut model, or the Basel one with the list of vertices to keep."""
    folder.mkdir()
    modes = SHAPE.reshape(-1, 3, 199)[KEPT].reshape(-1, 199)
    scipy.io.savemat(folder / "Model_Exp.mat", {"mu_exp": np.ones((3 * VERTICES, 1)), "w_exp": EXPRESSION})
    scipy.io.savemat(folder / "model_info.mat", {"keypoints": KEYPOINTS[None] + 1, "trimIndex": KEPT[:, None] + 1})
    if whole:
        scipy.io.savemat(folder / "01_MorphableModel.mat", {"shapeMU": MEAN.reshape(-1, 1), "shapePC": SHAPE})
    else:
        scipy.io.savemat(folder / "Model_Shape.mat", {"mu_shape": MEAN[KEPT].reshape(-1, 1), "w": modes})


def parameters(path, **more):
    """The .mat file of an image, as in 300W-LP and AFLW2000-3D."""
    pose = np.array([0.2, -0.5, 0.1, 40.0, 30.0, -7.0, 3e-4])
    numbers = {"Shape_Para": DRAW.normal(0, 1e4, (199, 1)), "Exp_Para": DRAW.normal(0, 1, (29, 1))}
    numbers |= {"Illum_Para": np.ones((1, 10)), "Color_Para": np.ones((1, 7)), "Tex_Para": np.ones((199, 1))}
    scipy.io.savemat(path, {"Pose_Para": pose[None], **numbers, **more})
    return numbers, pose


def expected(numbers, pose):
    """The landmarks by definition: pitch, yaw and roll one after the other, y up from the last row."""
    own = (MEAN[KEPT] + 1 + (SHAPE.reshape(-1, 3, 199)[KEPT] @ numbers["Shape_Para"][:, 0]))[KEYPOINTS]
    own += (EXPRESSION.reshape(-1, 3, 29) @ numbers["Exp_Para"][:, 0])[KEYPOINTS]
    for axis in (2, 1, 0):
        angle, (a, b) = pose[axis], [(1, 2), (2, 0), (0, 1)][axis]
        own[:, a], own[:, b] = (
            np.cos(angle) * own[:, a] + np.sin(angle) * own[:, b],
            np.cos(angle) * own[:, b] - np.sin(angle) * own[:, a],
        )
    placed = pose[6] * own + pose[3:6]
    placed[:, 1] = HEIGHT - 1 - placed[:, 1]
    return placed


def read(name, folder, split):
    builder = stream.open_dataset(name, folder)
    return [example for example in builder.as_dataset(split=split).as_numpy_iterator()]


@pytest.mark.parametrize("whole", [False, True])
def test_300w_lp(tmp_path, whole):
    source = tmp_path / "source"
    write_photo(source / "AFW" / "a_1_0.jpg")
    write_photo(source / "AFW_Flip" / "a_1_0.jpg")
    flat = np.arange(136.0).reshape(2, 68)
    numbers, pose = parameters(source / "AFW" / "a_1_0.mat", pt2d=flat, roi=np.array([[1, 2, 3, 4]]))
    morphable_model(source / "bfm", whole)
    for name, more in (("b", {}), ("c", {"pt2d": np.zeros((2, 5))})):
        write_photo(source / "AFW" / f"{name}.jpg")
        parameters(source / "AFW" / f"{name}.mat", **more)
    (source / "landmarks" / "AFW").mkdir(parents=True)
    scipy.io.savemat(source / "landmarks" / "AFW" / "a_1_0_pts.mat", {"pts_2d": flat.T + 1, "pts_3d": flat.T + 2})
    prepare("w300lp", str(tmp_path), str(source))
    (example,) = read("w300lp", tmp_path, "train")
    failed = stream.open_dataset("w300lp", tmp_path).info.metadata["failed"]
    assert set(failed) == {"AFW/b", "AFW/c"} and "pt2d must hold 136 numbers" in failed["AFW/c"]
    np.testing.assert_allclose(example["points_3d"], expected(numbers, pose), rtol=1e-4, atol=1e-3)
    for name, key in (("shape", "Shape_Para"), ("expression", "Exp_Para"), ("texture", "Tex_Para")):
        np.testing.assert_allclose(example[name], numbers[key][:, 0], rtol=1e-6)
    np.testing.assert_allclose(example["pose"], pose, rtol=1e-6)
    assert example["name"] == b"AFW/a_1_0" and example["image"].shape == (HEIGHT, 80, 3)
    assert (example["landmarks"] == flat.T).all() and (example["landmarks_3d"] == flat.T + 2).all()


def test_aflw2000_3d_and_the_message_for_a_missing_model(tmp_path):
    source = tmp_path / "source"
    write_photo(source / "image00002.jpg")
    solid = (canonical.queries("68") * [25, -25, 25] + [40, 30, 0]).T.astype(np.float32)
    numbers, pose = parameters(source / "image00002.mat", pt2d=-np.ones((2, 21)), pt3d_68=solid)
    with pytest.raises(UserError, match=r"Model_Exp.mat: missing.*01_MorphableModel.mat \(faces.dmi.unibas.ch\)"):
        prepare("aflw2000_3d", str(tmp_path), str(source))
    morphable_model(source / "bfm", False)
    write_photo(source / "image00004.jpg")
    info = prepare("aflw2000_3d", str(tmp_path), str(source))
    assert "missing" in info.metadata["failed"]["image00004"]
    (example,) = read("aflw2000_3d", tmp_path, "test")
    np.testing.assert_allclose(example["points_3d"], expected(numbers, pose), rtol=1e-4, atol=1e-3)
    assert (example["landmarks_68"] == solid.T).all() and (example["landmarks_21"] == -1).all()
    assert (example["landmarks"] == solid[:2].T).all()
    config = deep3d_config("smoke")
    config.data.update(dir=str(tmp_path), build_examples=0)
    config.batch_size = 2
    (batch,) = deep3d_data.eval_stream(config, "aflw2000_3d")
    assert batch["landmarks"].shape == (2, 68, 2) and batch["mask"].tolist() == [True, False]
    (source / "bfm" / "model_info.mat").write_bytes(b"MATLAB")
    with pytest.raises(UserError, match="model_info.mat: damaged"):
        bfm_landmarks.load(source / "bfm")


def annotation(**changes):
    points = DRAW.uniform(10, 50, (68, 3))
    known = {"img_paths": "b.png", "landmarks": points.tolist(), "objpos": [33.0, 31.0], "scale_provided": 0.2}
    return {**known, "isValidation": False, **changes}


def test_the_original_s_annotations(tmp_path):
    source = tmp_path / "source"
    write_photo(source / "300wLP" / "images" / "b.png")
    train, test = annotation(), annotation(isValidation=True, objpos=[-1, -1])
    (source / "anno.json").write_text(json.dumps([train, test]))
    prepare("jvcr_json", str(tmp_path), str(source))
    ((first,), (second,)) = (read("jvcr_json", tmp_path, split) for split in ("train", "test"))
    found = data.annotated_image(first)
    assert found.scale == pytest.approx(0.25) and found.center.tolist() == [33.0, 31.0]
    points = np.float32(train["landmarks"])
    np.testing.assert_allclose(found.points[:, 2], points[:, 2].mean() - points[:, 2], atol=1e-4)
    width = np.ptp(np.float32(test["landmarks"])[:, 0])
    assert data.annotated_image(second).scale == pytest.approx(1.25 * width / 200, rel=1e-5)
    bad = [annotation(landmarks=[[1, 2, 3]]), annotation(objpos="x"), annotation(img_paths="c.png"), {}]
    (source / "anno.json").write_text(json.dumps(bad[:2]))
    with pytest.raises(UserError, match=r"item 0: landmarks are \(1, 3\)"):
        prepare("jvcr_json", str(tmp_path / "again"), str(source))
    (source / "anno.json").write_text(json.dumps([*bad, train]))
    info = prepare("jvcr_json", str(tmp_path / "again"), str(source))
    assert info.splits["train"].num_examples == 1
    assert {f"anno.json, item {number}" for number in (0, 1, 3)} | {"c.png"} == set(info.metadata["failed"])


def test_3dfaw_and_the_points_that_it_leaves_out(tmp_path):
    source = tmp_path / "source"
    points = DRAW.uniform(10, 50, (66, 3)).round(3)
    for folder, ending in (("train", ".jpg"), ("test_img", ".png")):
        write_photo(source / folder / f"c{ending}")
    for path in (source / "train" / "c_lm.csv", source / "test_img" / "c.pts"):
        path.write_text("\n".join(",".join(map(str, row)) for row in points))
    prepare("faw3d", str(tmp_path), str(source))
    (example,) = read("faw3d", tmp_path, "train")
    np.testing.assert_allclose(example["points_3d"], points, rtol=1e-6)
    made = data.preprocess_eval(example, "clean", 32, 71)
    assert np.flatnonzero(~made["valid"]).tolist() == [60, 64]
    (source / "train" / "c_lm.csv").write_text("1,2,3")
    with pytest.raises(UserError, match="1 lines of x, y, z; expected 66"):
        prepare("faw3d", str(tmp_path / "again"), str(source))
    for name in ("a", "b"):
        write_photo(source / "train" / f"{name}.jpg")
    (source / "train" / "a_lm.csv").write_text("\n".join(",".join(map(str, row)) for row in points))
    for folder in ("train_x", "train_y"):
        (source / folder).mkdir()
        (source / folder / "b.pts").write_text("")
    info = prepare("faw3d", str(tmp_path / "again"), str(source))
    assert info.splits["train"].num_examples == 1 and set(info.metadata["failed"]) == {"train/b.jpg", "train/c.jpg"}


@pytest.mark.parametrize("mode", transforms.MODES)
def test_crops_for_training_carry_their_points(mode):
    """The colours of the image encode positions: under every augmentation the points keep their colours."""
    y, x = np.mgrid[:200, :240]
    pixels = np.stack([x, y, np.full_like(x, 0)], -1).astype(np.uint8)
    points = np.concatenate([DRAW.uniform((80, 60), (160, 140), (68, 2)), DRAW.normal(0, 20, (68, 1))], 1)
    example = {"image": pixels, "points_3d": points.astype(np.float32)}
    settings = get_config("clean").data.augment
    settings.color = 0.0
    for seed in range(6):
        made = data.preprocess_train(example, seed, mode, 128, 71, settings)
        plane, image = made["coordinates"][:68, :2], unit_images(made)["image"]
        inside = ((plane > 0) & (plane < 127)).all(-1)
        column, row = np.rint(plane[inside]).astype(int).T
        colors = image[row, column, :2]
        assert image.shape == (128, 128, 3) and made["coordinates"].shape == (71, 3) and made["in_volume"].all()
        # Points of a mirrored image are renumbered; colours are an affine function of positions.
        flip = data.LAYOUT_68.flip
        errors = [np.abs(_residual(points[order][inside, :2], colors)).max() for order in (np.arange(68), flip)]
        assert inside.sum() > 40 and min(errors) < 0.03 and max(errors) > 0.1


def _residual(places, colors):
    design = np.concatenate([places, np.ones((len(places), 1))], 1)
    return colors - design @ np.linalg.lstsq(design, colors, rcond=None)[0]


def test_missing_points_are_masked_and_images_of_two_people_stay_apart(tmp_path):
    source, shapes = tmp_path / "source", {}
    for split in ("train", "test"):
        for person in ("anna", "bob"):
            points = DRAW.uniform(10, 50, (66, 3)).round(3)
            points[8, :2] = -1 if person == "bob" else points[8, :2]
            shapes[f"{split}/{person}/000.jpg"] = points
            write_photo(source / split / person / "000.jpg")
            rows = "\n".join(",".join(map(str, row)) for row in points)
            (source / split / person / "000_lm.csv").write_text(rows)
    prepare("faw3d", str(tmp_path), str(source))
    for split in ("train", "test"):
        examples = read("faw3d", tmp_path, split)
        assert len(examples) == 2
        for example in examples:
            truth, valid = shapes[example["name"].decode()], example["valid"]
            assert np.flatnonzero(~valid).tolist() == ([8] if b"bob" in example["name"] else [])
            np.testing.assert_allclose(example["points_3d"][valid], truth[valid], rtol=1e-6)
            made = data.preprocess_eval(example, "clean", 32, 68)
            assert made["valid"].sum() == valid.sum() and np.isfinite(made["coordinates"]).all()
