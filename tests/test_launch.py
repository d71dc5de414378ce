"""Every mistake on the command line of a job is one line on stderr and exit status 2."""

import pathlib
import subprocess
import sys

import pytest

CONFIG = """
import ml_collections

def get_config(variant="small"):
    if variant != "small":
        raise ValueError(f"unknown variant {variant!r}; choose small")
    return ml_collections.ConfigDict({"system": "nowhere", "backend": "pmap", "steps": 3, "data": {"size": 1}})
"""


@pytest.mark.parametrize(
    "flags, line",
    [
        (["--config=X:small", "--config.data.sise=3"], "--config.data.sise: the configuration has no such key"),
        (
            ["--config=X:small", "--config.model.dense=4"],
            "--config.model.dense: this key was renamed; use --config.model.num_dense_points",
        ),
        (["--config=X:large"], "flag --config=X:large: unknown variant 'large'; choose small; see --help"),
        (["--config=missing.py"], "--config: missing.py is not a readable configuration; give a file or one of "),
        (
            ["--config=X:small", "--workdir=W", "--num_processes=2"],
            "--num_processes and --process_id: no address of process 0; give --coordinator",
        ),
        (["--config=X:small", "--workdir=W"], "the configuration: unknown system 'nowhere'"),
    ],
)
def test_mistakes_are_one_line(tmp_path, flags, line):
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    command = [sys.executable, "-m", "launch.train", *(flag.replace("X", str(path)) for flag in flags)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=pathlib.Path(__file__).parents[1])
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: " + line.replace("X", str(path)))
    assert done.stderr.count("\n") == 1
