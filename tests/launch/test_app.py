"""Shared by all jobs: process settings, paths of configurations, missing packages, help, and the console script."""

import importlib
import os
import pathlib
import subprocess
import sys

import pytest

from launch import __main__ as console
from launch import app

ROOT = pathlib.Path(__file__).parents[2]


def test_xla_flags_of_the_user_come_last_and_win(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_of_the_user=1")
    importlib.reload(app)
    assert os.environ["XLA_FLAGS"] == f"{getattr(app, 'NO_YNN', '')} --xla_of_the_user=1".strip()


def test_config_names_resolve_inside_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = f"{ROOT}/configs/pipnet.py"
    assert app.resolve_config_paths(["--config=pipnet:own"]) == [f"--config={packaged}:own"]
    assert app.resolve_config_paths(["--config", "configs/pipnet.py", "--x=1"]) == ["--config", packaged, "--x=1"]
    assert app.resolve_config_paths(["--config.a=pipnet", "--config=mine.py:a"]) == [
        "--config.a=pipnet",
        "--config=mine.py:a",
    ]
    assert app.resolve_config_paths(["--config=mine/pipnet.py:own"]) == ["--config=mine/pipnet.py:own"]
    pathlib.Path("pipnet.py").touch()
    assert app.resolve_config_paths(["--config=pipnet.py:own"]) == ["--config=pipnet.py:own"]


def test_missing_optional_package_names_its_extra(capsys):
    def main(_):
        raise ModuleNotFoundError("no module", name="tensorflow.io")

    assert app.call(main, ["train"]) == 2
    assert capsys.readouterr().err == "error: launch.test_app needs tensorflow; run: pip install 'jaxface[data]'\n"
    with pytest.raises(ModuleNotFoundError):
        app.call(lambda _: importlib.import_module("not_a_package"), ["train"])


@pytest.mark.parametrize(
    "job, names", [("train", ["config", "coordinator", "workdir"]), ("infer", ["input", "system", "workdir"])]
)
def test_help_shows_every_flag(job, names):
    done = subprocess.run([sys.executable, "-m", f"launch.{job}", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    assert all(f"\n  --{name}\n" in done.stdout for name in names)


def test_console_script_lists_the_jobs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["jaxface"])
    console.main()
    listed = {line.split()[0]: line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()[2:]}
    assert {"prepare", "train", "evaluate", "infer", "convert", "fit", "bench", "export"} <= listed.keys()
    assert not {"app", "model", "scan_files"} & listed.keys()
    monkeypatch.setattr(sys, "argv", ["jaxface", "tarin"])
    with pytest.raises(SystemExit, match="2"):
        console.main()
    assert capsys.readouterr().err.startswith("error: tarin: no such job; choose one of bench, compile")


def test_installed_console_script_ignores_the_current_directory(tmp_path):
    script = pathlib.Path(sys.executable).with_name("jaxface")
    if not script.is_file():
        pytest.skip("needs the package installed: pip install -e .")
    (tmp_path / "launch.py").write_text("raise RuntimeError\n")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").write_text("raise RuntimeError\n")
    command = [script, "train", "--config=pipnet:smoke", "--config.no_such_key=1", "--workdir=work"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --config.no_such_key: the configuration has no such key")


def test_ctrl_c_after_the_work_changes_nothing():
    code = "import atexit, os, signal\nfrom launch import app\n"
    code += "atexit.register(os.kill, os.getpid(), signal.SIGINT)\napp.run(lambda argv: 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0 and not done.stderr, done.stderr
