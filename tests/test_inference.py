import concurrent.futures
import json
import pickle
import shutil
import subprocess
import sys

import ml_collections
import numpy as np
import pytest
from PIL import Image

from configs import continuous
from jaxface import config_file, inference, pretrained, system
from jaxface.data import landmark_files
from jaxface.errors import UserError
from jaxface.inference import Predictor

BOX = [20.0, 10.0, 60.0, 65.0]


@pytest.fixture(scope="module")
def predictor(detector_workdir) -> Predictor:
    return Predictor.from_workdir(detector_workdir)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)


def test_every_form_of_a_photo_gives_the_same(predictor, image, tmp_path):
    Image.fromarray(image).save(tmp_path / "a.png")
    sources = [tmp_path / "a.png", str(tmp_path / "a.png"), image, Image.fromarray(image)]
    (first,), *others = predictor(sources, boxes=[BOX] * 4, layout="98")
    assert first.points.shape == (98, 2) and first.sigma.shape == (98,) and first.layout == "98"
    for (face,) in others:
        assert np.array_equal(face.points, first.points)
    assert np.array_equal(predictor(image, boxes=BOX, layout="98")[0].points, first.points)


def test_boxes_are_used_in_their_order_and_none_means_detect(predictor, image):
    boxes = [BOX, [0.0, 0.0, 30.0, 40.0]]
    assert np.array_equal([face.box for face in predictor(image, boxes=boxes)], boxes)
    assert predictor([image, image], boxes=[None, boxes])[0] == predictor(image, boxes=[]) == []
    with pytest.raises(UserError, match="one entry per photo"):
        predictor([image, image], boxes=[BOX])


def test_five_points_stand_for_the_box_around_them(predictor, image):
    five = np.array([[30, 30], [50, 30], [40, 42], [32, 52], [48, 52.0]])
    (face,) = predictor(image, boxes=five)
    np.testing.assert_allclose(face.box, landmark_files.face_box(five), atol=1e-3)


def test_a_list_is_answered_without_its_bad_photos(predictor, image, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="bad.jpg"):
        first, bad, last = predictor([image, tmp_path / "bad.jpg", image], boxes=[BOX, None, BOX])
    assert len(first) == len(last) == 1 and bad == []
    assert len(predictor(one for one in [image] * 10)) == 10


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        (None, {}, "not a photo"),
        (".", {}, "a folder is not a photo"),
        ("https://example.org/a.jpg", {}, "download"),
        (np.zeros((9, 9, 3), np.uint8), {"boxes": [0.1, 0.1, 0.9, 0.9]}, "pixels"),
        (np.zeros((9, 9, 3), np.uint8), {"min_score": 7}, "min_score"),
        (np.zeros((9, 9, 3), np.uint8), {"max_faces": 0}, "max_faces"),
    ],
)
def test_arguments_that_are_refused(predictor, source, options, words):
    with pytest.raises(UserError, match=words):
        predictor(source, **options)


def test_a_layout_may_be_a_number(predictor, image):
    assert predictor(image, boxes=BOX, layout=68)[0].layout == "68"


def test_repr_is_one_line(predictor, detector_workdir):
    start, end = "Predictor(system='continuous', parameters=", f"k, source={str(detector_workdir)!r})"
    assert repr(predictor).startswith(start) and repr(predictor).endswith(end)


def test_a_predictor_can_be_pickled(predictor, image):
    restored = pickle.loads(pickle.dumps(predictor))
    assert repr(restored) == repr(predictor) and restored.config.to_dict() == predictor.config.to_dict()
    (expected,), (found,) = (one(image, boxes=BOX) for one in (predictor, restored))
    assert np.array_equal(found.points, expected.points) and np.array_equal(found.sigma, expected.sigma)


def test_threads_get_the_same_results(predictor):
    astronaut = pytest.importorskip("skimage.data").astronaut()
    images = [np.ascontiguousarray(astronaut[:, shift : shift + 400]) for shift in range(0, 96, 12)]
    expected = [predictor(one) for one in images]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(predictor, images))
    for faces, own in zip(expected, found, strict=True):
        assert len(faces) == len(own) == 1 and np.array_equal(faces[0].points, own[0].points)


def test_scans_need_a_system_that_takes_them(predictor, image):
    with pytest.raises(UserError, match="takes photos, not scans"):
        predictor.fit([np.zeros((100, 3))])
    with pytest.raises(UserError, match="use deep3d for several of one person"):
        predictor.person([image])


def test_systems_with_one_model_have_no_fast_one():
    with pytest.raises(UserError, match="only one pretrained model"):
        Predictor.pretrained("nphm", "fast")


def test_no_scan_gives_no_fit_and_photos_of_a_person_may_be_an_iterator():
    assert Predictor.pretrained("nphm").fit([]) == []
    empty = [np.full((64, 64, 3), 90, np.uint8)] * 2
    assert Predictor.pretrained("deep3d").person(iter(empty)) == [[], []]


def test_a_huge_file_is_answered_in_pixels_of_the_full_image(predictor, tmp_path):
    full = Image.new("L", (9000, 8000), 90)
    full.paste(200, (3000, 3000, 4000, 4500))
    full.save(tmp_path / "a.png")
    box = [3000.0, 2800.0, 4200.0, 4400.0]
    (face,) = predictor(tmp_path / "a.png", boxes=box)
    (exact,) = predictor(np.asarray(full), boxes=box)
    assert np.allclose(face.box, box) and np.allclose(face.points, exact.points, atol=10)
    assert np.allclose(face.sigma, exact.sigma, rtol=0.02)


def test_raw_is_the_network_alone(predictor):
    arrays = {"image": np.zeros((2, 32, 32, 3), np.float32), "queries": np.zeros((2, 5, 3), np.float32)}
    outputs = predictor.raw(arrays)
    assert outputs["points"].shape == (2, 5, 2) and outputs["sigma"].shape == (2, 5)
    for changes, message in (
        ({"image": np.full((2, 32, 32, 3), 200, np.float32)}, "image: values up to 200; divide by 255"),
        ({"image": np.zeros((2, 9, 9, 3), np.float32)}, "arrays: they do not fit the network .*; see docs"),
        ({"queries": np.zeros((2, 5), np.float32)}, "queries: the shape is"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            predictor.raw({**arrays, **changes})
        assert "\n" not in str(caught.value)


def test_the_form_in_which_a_model_ships(predictor, image, tmp_path, monkeypatch):
    model_state = {"batch_stats": {"mean": np.float32([1e-6])}}
    trained = predictor.config.copy_and_resolve_references()
    trained.init = "/home/somebody/earlier"
    pretrained.save_asset(tmp_path / "mine", trained, predictor.params, model_state)
    config, params, read = pretrained.load_asset(tmp_path / "mine")
    portable = {"data": {**trained.data.to_dict(), "dir": "data"}, "init": "", "resume": ""}
    assert config.to_dict() == {**trained.to_dict(), **portable} and read["batch_stats"]["mean"] == np.float32(1e-6)
    monkeypatch.setattr(inference, "ASSETS", tmp_path)
    mine = Predictor.pretrained("mine")
    ours, theirs = (one(image, boxes=BOX)[0].points for one in (mine, predictor))
    assert np.abs(ours - theirs).max() < 0.5
    with pytest.raises(UserError, match="mine"):
        Predictor.pretrained("other")
    fast = Predictor.pretrained("mine", "fast")
    assert mine.config.model.mirror and not fast.config.model.mirror
    smaller = {**predictor.config.to_dict(), "seed": 77}
    pretrained.save_asset(tmp_path / "mine" / "fast", ml_collections.ConfigDict(smaller), predictor.params, model_state)
    assert Predictor.pretrained("mine", "fast").config.seed == 77 != Predictor.pretrained("mine").config.seed
    with pytest.raises(UserError, match="fast"):
        Predictor.pretrained("mine", "quick")
    with pytest.raises(ValueError, match="float16"):
        pretrained.save_asset(tmp_path / "big", config, {"kernel": np.full((2, 2), 1e9)}, {})
    (tmp_path / "mine" / pretrained.PARAMS_FILE).write_bytes(b"damaged")
    with pytest.raises(UserError, match="install"):
        Predictor.pretrained("mine")


def test_unusable_workdirs_are_one_line(detector_workdir, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        Predictor.from_workdir(tmp_path / "none")
    with pytest.raises(UserError, match="config.json"):
        Predictor.from_workdir(tmp_path)
    shutil.copy(detector_workdir / "config.json", tmp_path)
    with pytest.raises(UserError, match="no readable checkpoint"):
        Predictor.from_workdir(tmp_path)
    shutil.copytree(detector_workdir / "checkpoints", tmp_path / "checkpoints")
    config = config_file.load(detector_workdir)
    for changes, words in (({"model": {"width": 48}}, "do not fit"), ({"system": "unheard"}, "unknown system")):
        (tmp_path / "config.json").write_text(json.dumps(merged(config.to_dict(), changes)))
        with pytest.raises(UserError, match=words):
            Predictor.from_workdir(tmp_path)
    older = config.to_dict()
    del older["model"]["predictor"]
    (tmp_path / "config.json").write_text(json.dumps(older))
    with pytest.raises(UserError, match="no key 'predictor'"):
        Predictor.from_workdir(tmp_path)


def merged(old: dict, new: dict) -> dict:
    return old | {key: merged(old[key], value) if isinstance(value, dict) else value for key, value in new.items()}


def test_inference_does_not_load_tensorflow(detector_workdir):
    code = (
        "import sys; from jaxface.inference import Predictor; import numpy as np;"
        f"Predictor.from_workdir({str(detector_workdir)!r})(np.zeros((60, 60, 3), np.uint8), boxes=[5, 5, 50, 55]);"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_a_missing_configuration_key_is_named():
    config = continuous.get_config("endless")
    with config.unlocked():
        del config.head.names
        config.head.name = "makehuman"  # as it was called once, and close enough to be suggested
    with pytest.raises(UserError, match="config.json of W has no key 'names', which"):
        system.build(config, "config.json of W")
