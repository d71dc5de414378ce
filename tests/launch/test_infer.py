import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jaxface.heads import canonical

ROOT = pathlib.Path(__file__).parents[2]


def infer(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "launch.infer", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180)


def test_photos_to_json_and_overlays(detector_workdir, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (90, 80, 3), np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(noise).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"")
    (tmp_path / "boxes.json").write_text('{"a.png": [10, 12, 60.5, 80]}')
    flags = ["--workdir", detector_workdir, "--input", tmp_path / "in", "--output", tmp_path / "out"]
    done = infer(*flags, "--boxes", tmp_path / "boxes.json", "--layout", "98")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "1 photo, 1 face, 1 failed: bad.png (the file is empty" in done.stdout
    (face,) = json.loads((tmp_path / "out" / "a.json").read_text())["faces"]
    assert face["box"] == [10, 12, 60.5, 80] and face["layout"] == "98"
    assert np.shape(face["points"]) == (98, 2) and np.shape(face["sigma"]) == (98,)
    overlay = np.asarray(Image.open(tmp_path / "out" / "a_overlay.png"))
    assert overlay.shape == noise.shape and (overlay != noise).any()


def test_layouts_and_what_is_made_of_the_dense_points(detector_workdir, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (90, 80, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    (tmp_path / "boxes.json").write_text('{"a.png": [10, 12, 60.5, 80]}')
    np.save(tmp_path / "mine.npy", canonical.queries("68")[:3])
    files = ["--input", tmp_path / "a.png", "--boxes", tmp_path / "boxes.json", "--output", tmp_path / "out"]
    applications = ["--fit", "--masks", "lips,nose", "--texture"]
    flags = ["--workdir", detector_workdir, *files, "--layout", f"68,lips,{tmp_path / 'mine.npy'}", *applications]
    done = infer(*flags)
    assert done.returncode == 0, done.stderr
    entry = json.loads((tmp_path / "out" / "a.json").read_text())
    (face,) = entry["faces"]
    assert list(face["layouts"]) == ["68", "lips", "mine"] and len(face["layouts"]["mine"]["points"]) == 3
    assert face["points"] == face["layouts"]["68"]["points"] and len(face["visible"]) == 68
    assert {"coefficients", "pose", "focal_px", "blendshapes"} <= face["head"].keys()
    assert face["mask_labels"] == {"lips": 1, "nose": 2}
    made = {"a_overlay.png", "a_mask.png", "a_texture.png", "a.glb", "a.obj"}
    assert set(entry["files"]) == made and made <= {path.name for path in (tmp_path / "out").iterdir()}
    assert np.asarray(Image.open(tmp_path / "out" / "a_mask.png")).shape == noise.shape[:2]
    painted = infer("--workdir", detector_workdir, *files, "--paint", tmp_path / "out" / "a_texture.png")
    assert painted.returncode == 0 and Image.open(tmp_path / "out" / "a_painted.png").size == (80, 90)


def test_prepared_arrays(detector_workdir, tmp_path):
    np.savez(tmp_path / "in.npz", image=np.ones((1, 32, 32, 3), np.float32), queries=np.ones((1, 7, 3), np.float32))
    done = infer("--workdir", detector_workdir, "--raw", tmp_path / "in.npz", "--output", tmp_path / "out.npz")
    assert done.returncode == 0, done.stderr
    assert {name: array.shape[:2] for name, array in np.load(tmp_path / "out.npz").items()} == {
        "features": (1, 4 * 4 * 32),
        "points": (1, 7),
        "sigma": (1, 7),
    }


def test_a_mistake_is_one_line(detector_workdir, tmp_path):
    done = infer("--workdir", detector_workdir, "--system", "pipnet", "--input", tmp_path, "--output", tmp_path / "out")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "pipnet" in line and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--layout", "68,shoulders"], "not trained on the region 'shoulders'"),
        (["--masks", "bogus"], "masks: 'bogus' is not a region"),
        (["--system", "pipnet", "--fit"], "pipnet"),
        (["--camera", "97"], "give --input FILE or FOLDER, --camera NUMBER, or --raw"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, flags, line):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    done = infer("--input", tmp_path / "a.png", "--output", tmp_path / "out", *flags)
    assert done.returncode == 2 and "Traceback" not in done.stderr and not (tmp_path / "out").exists()
    assert line in [text for text in done.stderr.splitlines() if text.startswith("error: ")][0]


def test_the_earlier_name_of_multiview_warns_once(detector_workdir, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    done = infer("--workdir", detector_workdir, "--input", tmp_path, "--output", tmp_path / "out", "--set")
    assert done.returncode == 2 and "one photo at a time" in done.stderr
    assert done.stderr.count("--set is deprecated; use --multiview") == 1
