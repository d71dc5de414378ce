"""launch.export as a user calls it: a file that another process runs without this package, or one line."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from jaxface.inference import Predictor

ROOT = pathlib.Path(__file__).parents[2]
RUN = """
import sys, jax, numpy
network = jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
numpy.savez("out.npz", **network.call(dict(numpy.load("in.npz"))))
sys.exit("jaxface" in sys.modules or "flax" in sys.modules)
"""


def export(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "launch.export", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180)


def test_the_file_runs_without_the_package(detector_workdir, tmp_path):
    done = export("--workdir", detector_workdir, "--output", tmp_path / "model.stablehlo")
    assert done.returncode == 0, done.stderr
    assert "takes image (B, 64, 64, 3), queries (B, N, 3); " in done.stdout
    assert (
        tmp_path / "model_encode.stablehlo"
    ).stat().st_size and "model_query.stablehlo takes features" in done.stdout
    random = np.random.default_rng(0)
    arrays = {"image": random.random((2, 64, 64, 3), np.float32), "queries": random.random((2, 7, 3), np.float32)}
    assert export("--workdir", detector_workdir, "--output", tmp_path / "model.stablehlo").returncode == 0
    np.savez(tmp_path / "in.npz", **arrays)
    before = (tmp_path / "in.npz").read_bytes()
    refused = export("--workdir", detector_workdir, "--output", tmp_path / "in.npz")
    assert refused.returncode == 2 and (tmp_path / "in.npz").read_bytes() == before
    assert refused.stderr.endswith("in.npz: exists and is not an output of jaxface; choose another --output\n")
    subprocess.run([sys.executable, "-c", RUN], cwd=tmp_path, check=True, timeout=120)
    found, expected = np.load(tmp_path / "out.npz"), Predictor.from_workdir(detector_workdir).raw(arrays)
    assert set(found) == {"points", "sigma", "features"}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "flags, line",
    [
        (["--system", "jvcr"], "--output: missing; see --help"),
        (["--workdir", "W", "--output", "x.pt"], "--output: .pt is another format; name the file .stablehlo or .onnx"),
        (["--system", "nothing", "--output", "x"], "nothing: there is no pretrained model"),
        (["--workdir", "W", "--output", "missing/x"], "missing/x: cannot be written (No such file or directory)"),
    ],
)
def test_a_mistake_is_one_line(detector_workdir, flags, line):
    done = export(*(str(detector_workdir) if flag == "W" else flag for flag in flags))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {line}") and done.stderr.count("\n") == 1
