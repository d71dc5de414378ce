"""Basel Face Models: ready files, the 2009 recipe against plain loops, .h5 files, and errors for damaged files."""

import json

import numpy as np
import pytest
import scipy.io

from jaxface.errors import UserError
from jaxface.heads import bfm, sources
from jaxface.heads.makehuman.head import makehuman_head
from tests import basel, weights

INDICES = ("tri", "tri_mask2", "keypoints", "frontmask2_idx", "skinmask")


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    return basel.save(tmp_path_factory.mktemp("ready") / "BFM_model_front.mat")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The source folder of a front face: 700 vertices, 650 of them with expressions, 600 in front."""
    folder, fields = tmp_path_factory.mktemp("BFM"), basel.fields()
    model = {
        f"{kind}{part}": weights.array(f"{kind}{part}", shape, scale)
        for kind in ("shape", "tex")
        for part, shape, scale in (("PC", (2100, 90), 1.0), ("EV", (90, 1), 3e3), ("MU", (2100, 1), 5e4))
    }
    scipy.io.savemat(folder / bfm.SHAPES, model)
    trim, front = np.arange(650) + 30, np.arange(600) + np.arange(600) // 20
    scipy.io.savemat(folder / bfm.EXPRESSION_ROWS, {"trimIndex": np.uint16(trim[:, None] + 1)})
    scipy.io.savemat(folder / bfm.FRONT_ROWS, {"idx": np.float32(front[:, None] + 1)})
    scipy.io.savemat(folder / bfm.TOPOLOGY, {name: fields[name] for name in INDICES})
    components = weights.array("expressions", (79, 3 * 650), 100.0)
    vectors = np.concatenate([np.full(3 * 650, 7, "<f4"), components.ravel()])
    (folder / bfm.EXPRESSIONS).write_bytes(np.int32(79).tobytes() + vectors.astype("<f4").tobytes())
    np.savetxt(folder / bfm.DEVIATIONS, 1 + np.arange(79) / 10)
    return folder, model, trim, front, components


def test_a_ready_file_is_read_exactly(ready):
    face, fields = bfm.read_front(ready), basel.fields()
    np.testing.assert_array_equal(face.mean.ravel(), fields["meanshape"][0])
    np.testing.assert_array_equal(face.expression[5, 17, 2], np.float32(fields["exBase"][3 * 17 + 2, 5]))
    np.testing.assert_array_equal(
        face.front[face.crop_triangles][3], face.front[fields["tri_mask2"][3].astype(int) - 1]
    )
    assert face.identity.shape == (80, 600, 3) and face.skin.sum() == fields["skinmask"].sum()
    assert bfm.read_front(ready.parent).mean.shape == (600, 3)


def test_head_is_in_millimetres_and_in_the_head_frame(ready):
    head, reference = sources.load_head("bfm", str(ready)), makehuman_head()
    face = bfm.read_front(ready)
    middle = head.landmark_points(head.template, "68").mean(0)
    np.testing.assert_allclose(middle, reference.landmark_points(reference.template, "68").mean(0), atol=1e-3)
    np.testing.assert_allclose(np.ptp(head.template, 0), 100 * np.ptp(face.mean, 0), rtol=1e-5)
    np.testing.assert_allclose(head.identity, 100 * face.identity, rtol=1e-6)
    assert (head.mirror[head.mirror] == np.arange(600)).all()
    assert head.landmarks["98"][0].shape == (98, 3) and head.regions["face"].all()


def test_front_face_built_from_the_2009_files(parts):
    folder, model, trim, front, components = parts
    face = bfm.read_front(folder)
    for vertex, axis, mode in ((0, 0, 0), (123, 2, 7), (599, 1, 63)):
        row = 3 * trim[front[vertex]] + axis
        shape = model["shapePC"][row, mode] * model["shapeEV"][mode, 0] / 1e5
        color = model["texPC"][row, mode] * model["texEV"][mode, 0]
        smile = components[mode, 3 * front[vertex] + axis] * (1 + mode / 10) / 1e5
        np.testing.assert_allclose(face.identity[mode, vertex, axis], shape, rtol=1e-6)
        np.testing.assert_allclose(face.albedo[mode, vertex, axis], color, rtol=1e-6)
        np.testing.assert_allclose(face.expression[mode, vertex, axis], smile, rtol=1e-6)
        np.testing.assert_allclose(face.mean[vertex, axis], model["shapeMU"][row, 0] / 1e5, rtol=1e-6)
        np.testing.assert_allclose(face.albedo_mean[vertex, axis], model["texMU"][row, 0], rtol=1e-6)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"exBase": None}, "exBase missing, it contains"),
        ({"idBase": np.zeros((1800, 79))}, r"idBase has shape \(1800, 79\); 600 vertices need \(1800, 80\)"),
        ({"keypoints": np.full((1, 68), 601.0)}, "keypoints must contain indices from 1 to 600"),
        ({"tri": np.zeros((5, 3))}, "tri must contain indices from 1 to 600"),
        ({"tri_mask2": np.full((5, 3), 401.0)}, "tri_mask2 must contain indices from 1 to 400"),
        ({"meanshape": np.full((1, 1800), np.nan)}, "meanshape has values that are not finite"),
        ({"meantex": np.array(["a"])}, "meantex is not numeric"),
    ],
)
def test_damaged_files_are_refused_in_one_line(changes, message, tmp_path):
    path = basel.save(tmp_path / "BFM_model_front.mat", **changes)
    with pytest.raises(UserError, match=message) as caught:
        bfm.read_front(path)
    assert "\n" not in str(caught.value)


def test_missing_and_foreign_files(parts, tmp_path):
    with pytest.raises(UserError, match="01_MorphableModel.mat: file is missing"):
        bfm.read_front(tmp_path)
    with pytest.raises(UserError, match="nowhere: no such file or folder; give BFM"):
        bfm.read_front(tmp_path / "nowhere")
    with pytest.raises(UserError, match="contains no expressions; give the folder"):
        bfm.read_front(parts[0] / bfm.SHAPES)
    (tmp_path / "text.mat").write_text("not a MATLAB file, but long enough to have a header" * 9)
    with pytest.raises(UserError, match="damaged or not a MATLAB file"):
        bfm.read_front(tmp_path / "text.mat")
    with pytest.raises(UserError, match="head 'bfm': no path given"):
        sources.load_head("bfm")


def write_h5(path, vertices=600, **changes):
    h5py = pytest.importorskip("h5py")
    head, fields = makehuman_head(), basel.fields()
    points = np.asarray(head.landmark_points(head.template, "68")) * 1.1 + [3, 4, 5]
    template = np.concatenate([points, 100 * fields["meanshape"].reshape(-1, 3)[: vertices - 68]])
    from jaxface.heads.bfm_h5 import NAMED

    named = [{"id": name, "coordinates": points[number].tolist()} for name, number in NAMED.items()]
    arrays = {"shape/model/mean": template.ravel(), "shape/representer/cells": fields["tri"].T.astype(int) - 1}
    for part, count in (("shape", 5), ("expression", 4), ("color", 3)):
        arrays[f"{part}/model/pcaBasis"] = weights.array(part, (3 * vertices, count))
        arrays[f"{part}/model/pcaVariance"] = np.arange(1.0, count + 1)
    arrays |= {"expression/model/mean": np.ones(3 * vertices), "color/model/mean": np.full(3 * vertices, 0.5)}
    arrays["metadata/landmarks/json"] = json.dumps(named)
    with h5py.File(path, "w") as file:
        for name, value in {**arrays, **changes}.items():
            if value is not None:
                file[name] = value
    return template, points


def test_a_model_of_2017(tmp_path):
    template, points = write_h5(tmp_path / "model2017-1_face12_nomouth.h5")
    head = bfm.load_bfm(tmp_path / "model2017-1_face12_nomouth.h5")
    offset = head.template[0] - template[0]
    np.testing.assert_allclose(head.template, template + offset, atol=1e-3)
    np.testing.assert_allclose(head.landmark_points(head.template, "68"), points + offset, atol=1e-3)
    np.testing.assert_allclose(head.identity[3].ravel(), 2 * weights.array("shape", (1800, 5))[:, 3], rtol=1e-6)
    assert [len(modes) for modes in (head.identity, head.expression, head.albedo)] == [5, 4, 3]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"color/model/pcaVariance": None}, "not a Basel Face Model of 2017 or 2019 .*pcaVariance"),
        ({"metadata/landmarks/json": "[]"}, "names 0 of the landmarks"),
        ({"shape/representer/cells": np.full((3, 9), 600)}, "is not a triangle list of 600 vertices"),
        ({"shape/representer/cells": np.zeros((0, 3), int)}, "is not a triangle list of 600 vertices"),
        ({"shape/model/mean": np.full(1800, np.nan)}, "shape/model/mean has values that are not finite"),
        ({"shape/model/mean": np.arange(1800.0) * 1e3}, "extends over .* mm, which is not a face"),
        ({"expression/model/mean": None}, "expression/model/mean is missing"),
    ],
)
def test_damaged_h5_files_are_refused(changes, message, tmp_path):
    write_h5(tmp_path / "model.h5", **changes)
    with pytest.raises(UserError, match=message):
        bfm.load_bfm(tmp_path / "model.h5")


@pytest.mark.parametrize("name", ["model.H5", "model.hdf5", "model"])
def test_h5_files_of_any_name_and_colors_in_bytes(tmp_path, name):
    write_h5(tmp_path / name, **{"color/model/mean": np.full(1800, 127.5)})
    np.testing.assert_allclose(bfm.load_bfm(tmp_path / name).albedo_mean, 0.5, atol=1e-6)


def test_a_face_in_millimetres_is_not_taken_for_decimetres(tmp_path):
    basel.save(tmp_path / bfm.READY, meanshape=100 * basel.fields("small")["meanshape"])
    with pytest.raises(UserError, match="meanshape extends over 184; the file's unit is dm"):
        bfm.load_bfm(tmp_path / bfm.READY)
