import concurrent.futures
import copy
import dataclasses
import gc
import io
import json
import pickle
import subprocess
import sys
import weakref

import numpy as np
import pytest
from PIL import Image

from jaxface import photo
from jaxface.deferred import Deferred
from jaxface.geometry.alignment import Similarity
from jaxface.meshes import Mesh
from jaxface.results import Camera, FaceLandmarks, FaceReconstruction, HeadFit, LazyFiles

BOX = np.array([1.0, 2.0, 11.0, 14.00049])
MESH = Mesh(np.zeros((4, 3), np.float32), np.zeros((0, 3), np.int32))
FIELDS = dict(box=BOX, extent=BOX, layout="68", points=np.full((68, 2), 1 / 3), sigma=np.ones(68, np.float32))


def landmarks(**fields) -> FaceLandmarks:
    return FaceLandmarks(**{**FIELDS, **fields})


def reconstruction(**fields) -> FaceReconstruction:
    camera = Camera(np.array([900.0, 900.0]), np.array([4.0, 3.0]), np.eye(3), np.array([0.0, 0.0, 1000 / 3]))
    coefficients = {"identity": np.float32([1 / 3])}
    added = dict(coefficients=coefficients, camera=camera, crop={"size": 224}, mesh=MESH, depth_step_mm=0.1)
    return FaceReconstruction(**{**FIELDS, **added, **fields})


def test_json_has_rounded_pixels_and_no_missing_fields():
    entry = landmarks(confidence=np.float32([1 / 3]), track=2).to_json()
    assert list(entry) == ["track", "box", "extent", "layout", "points", "sigma", "confidence"]
    assert entry["box"] == [1.0, 2.0, 11.0, 14.0] and entry["points"][0] == [0.333, 0.333] and entry["track"] == 2
    assert entry["confidence"] == [0.333] and json.loads(json.dumps(entry)) == entry


def test_json_of_a_reconstruction_keeps_its_camera_in_full_precision():
    entry = reconstruction(files={".obj": b""}).to_json()
    assert entry["coefficients"] == {"identity": [float(np.float32(1 / 3))]}
    assert entry["camera"]["translation_mm"][2] == 1000 / 3 and entry["crop"] == {"size": 224}
    assert entry["depth_step_mm"] == 0.1 and not {"mesh", "files", "layer", "photo"} & entry.keys()


def test_a_reduced_photo_scales_all_three_axes_and_the_camera():
    kept = photo.Photo(np.zeros((4, 4, 3), np.uint8), 8, 8, step=2)
    face = reconstruction(points_3d=np.ones((68, 3))).in_full_image(kept)
    assert face.points_3d is not None and face.points_3d[0].tolist() == [2.5, 2.5, 2.0]
    assert face.box.tolist() == ((BOX + 0.5) * 2 - 0.5).tolist() and face.sigma[0] == 2.0 and face.photo is kept
    assert face.camera.focal_px.tolist() == [1800.0, 1800.0] and face.camera.center_px.tolist() == [8.5, 6.5]


def test_a_notebook_shows_the_overlay():
    image = np.full((20, 30, 3), 90, np.uint8)
    face = landmarks(points=np.array([[8.0, 8.0]]), sigma=np.ones(1), layout="custom")
    assert face._repr_png_() is None
    shown = np.asarray(Image.open(io.BytesIO(dataclasses.replace(face, photo=photo.load(image))._repr_png_())))
    assert shown.shape == image.shape and (shown != image).any()
    face = dataclasses.replace(face, box=np.float32([1, 2.1, 11, 14]))
    assert repr(face) == "FaceLandmarks(layout='custom', box=[1.0, 2.1, 11.0, 14.0], points=(1, 2))"


def test_access_by_key_works_with_one_warning_that_names_the_attribute():
    face = landmarks()
    with pytest.warns(DeprecationWarning, match="use face.points") as caught:
        assert face["points"] is face.points
    assert len(caught) == 1 and caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="use face.sigma"):
        assert face.get("sigma") is face.sigma
    assert "points" in face and "points_3d" not in face and "to_json" not in face
    with pytest.warns(DeprecationWarning), pytest.raises(KeyError):
        face["points_3d"]
    with pytest.raises(TypeError, match="not iterable"):
        list(face)
    camera = reconstruction().camera
    with pytest.warns(DeprecationWarning, match="use camera.focal_px") as caught:
        assert camera["focal_px"] is camera.focal_px
    assert len(caught) == 1 and caught[0].filename == __file__
    with pytest.warns(DeprecationWarning), pytest.raises(KeyError):
        camera["to_json"]


def test_files_are_encoded_on_access():
    encoded = []
    files = LazyFiles({".a": lambda: encoded.append("a") or b"a", ".b": lambda: b"b"})
    assert list(files) == [".a", ".b"] and not encoded and files[".a"] == b"a" and encoded
    assert pickle.loads(pickle.dumps(landmarks(files=files))).files == {".a": b"a", ".b": b"b"}


def test_a_head_fit_gives_its_entry_of_fit_json():
    similarity = Similarity(2.0, np.eye(3), np.array([1.0, 2.0, 3.0]))
    fit = HeadFit(
        mesh=MESH,
        identity=np.zeros(3),
        expression=np.zeros(0),
        similarity=similarity,
        unit="mm",
        errors_mm={"mean": 0.5},
        scan=np.zeros((7, 3)),
        draw=lambda: np.zeros((2, 2, 3), np.uint8),
    )
    matrix = similarity.matrix().tolist()
    assert fit.to_json() == {"points": 7, "units": "mm", "matrix": matrix, "errors_mm": {"mean": 0.5}}
    assert fit._repr_png_().startswith(b"\x89PNG")
    assert repr(fit) == "HeadFit(vertices=4, scan=7 points, mean error 0.50 mm)"


def test_the_package_is_imported_lazily():
    code = (
        "import sys, jaxface; from jaxface import FaceLandmarks, FaceReconstruction, HeadFit, __version__;"
        "assert __version__ and set(jaxface.__all__) <= set(dir(jaxface));"
        "loaded = {'jax', 'cv2', 'tensorflow'} & set(sys.modules); print(loaded); assert not loaded;"
        "from jaxface import Predictor; assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_deferred_field_is_computed_once_when_it_is_read_and_stored_by_copies():
    calls = []

    def compute():
        calls.append(1)
        return np.array([True, False])

    face = landmarks(visible=Deferred(compute))
    kept = photo.Photo(np.zeros((4, 4, 3), np.uint8), 8, 8, step=2)
    moved = face.in_full_image(kept)
    assert not calls and landmarks().visible is None
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        values = list(pool.map(lambda _: moved.visible, range(8)))
    assert len(calls) == 1 and all(value is face.visible for value in values)
    for other in (pickle.loads(pickle.dumps(face)), copy.deepcopy(face), dataclasses.replace(face, track=1)):
        assert isinstance(vars(other)["visible"], np.ndarray) and other.visible.tolist() == [True, False]
    assert face.to_json()["visible"] == [True, False] and dataclasses.asdict(face)["visible"] is not None
    with pytest.raises(dataclasses.FrozenInstanceError):
        face.visible = None


def test_a_deferred_value_that_fails_is_tried_again_and_releases_what_it_needs():
    class Source:
        failures = 1

        def __call__(self):
            if self.failures:
                self.failures = 0
                raise ValueError("not yet")
            return 3

    source = Source()
    alive = weakref.ref(source)
    value = Deferred(source)
    del source
    with pytest.raises(ValueError, match="not yet"):
        value()
    assert alive() is not None and value() == 3
    gc.collect()
    assert alive() is None and value() == 3
