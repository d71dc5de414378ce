"""README and docs: commands exist with their flags, pages build, tables are up to date, messages are in the code."""

import ast
import configparser
import importlib
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from jaxface import prepared_data

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
BUILDERS = ROOT / "jaxface" / "data" / "builders"
# Commands of the pages that need no data and no network, run in this order in one folder with photo.jpg.
RUN = (
    "jaxface infer --input photo.jpg --output out",
    "jaxface export --output model.stablehlo",
)


def blocks(page: pathlib.Path, language: str) -> list[str]:
    """The code blocks of a page in a language, without the indentation of notes."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", body, flags=re.MULTILINE) for indent, body in found]


def command_lines() -> list[tuple[str, list[str]]]:
    """(file, words) of every shell command of the pages and of the docstrings of configs/, without comments."""
    texts = {page: "\n".join(blocks(page, "bash")) for page in PAGES}
    for path in (ROOT / "configs").glob("[!_]*.py"):
        paragraphs = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split("\n\n")
        texts[path] = "\n".join(text for text in paragraphs if text.startswith("python -m"))
    found = []
    for path, text in texts.items():
        for line in text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                found.append((path.relative_to(ROOT).as_posix(), words))
    return found


def job_of(words: list[str]) -> list[str] | None:
    """[job, flags …] of `python -m launch.JOB …` and `jaxface JOB …`; None for other commands."""
    if words[:2] == ["python", "-m"] and words[2].startswith("launch."):
        return [words[2].removeprefix("launch."), *words[3:]]
    return words[1:] if words[0] == "jaxface" else None


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **more}


def test_every_command_is_accepted_by_its_launcher():
    commands = [job for _, words in command_lines() if (job := job_of(words))]
    assert len(commands) > 60
    checker = [sys.executable, str(ROOT / "tests" / "docs_commands.py")]
    result = subprocess.run(
        checker, input=json.dumps(commands), text=True, capture_output=True, cwd=ROOT, env=environment()
    )
    assert result.returncode == 0, result.stderr
    assert not result.stdout.strip(), result.stdout


def test_scripts_and_extras_of_the_pages_exist():
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg", "utf-8")
    extras = set(setup["options.extras_require"])
    for page, words in command_lines():
        if words[0] == "bash":
            assert (ROOT / words[1]).is_file(), f"{page}: {words[1]}"
        if "install" in words:
            named = re.findall(r"^(?:\.|jaxface)\[([\w,]+)\]$", words[-1])
            assert not named or set(named[0].split(",")) <= extras, f"{page}: {words[-1]}"


def test_links_of_the_top_level_pages_lead_somewhere():
    for page in ("README.md", "WORKSPACE.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text("utf-8")):
            assert "://" in target or (ROOT / target).exists(), f"{page}: {target}"


def test_site_builds_strictly(tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings_handlers"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment(NO_MKDOCS_2_WARNING="1"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "site" / "api" / "index.html").is_file()


def test_tables_are_those_of_results():
    command = [sys.executable, "-m", "launch.report", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment())
    assert result.returncode == 0, f"{result.stdout}{result.stderr}; run python -m launch.report"
    named = {name for page in PAGES for name in re.findall(r"<!-- results: ([\w-]+) -->", page.read_text("utf-8"))}
    assert named == {path.stem for path in (ROOT / "results").glob("*.json")}


def test_every_data_set_is_described():
    page = (DOCS / "datasets.md").read_text("utf-8")
    names = {prepared_data.RENAMED.get(path.stem, path.stem) for path in BUILDERS.glob("*.py")} - {"__init__"}
    assert not [name for name in names if f"`{name}" not in page]


def messages_of_the_code() -> str:
    """All strings of the package and the launchers, one per line; an ellipsis for what is formatted into them."""
    found = []
    for path in (*(ROOT / "jaxface").rglob("*.py"), *(ROOT / "launch").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_messages_of_the_troubleshooting_page_exist():
    code = messages_of_the_code()
    messages = re.findall(r"^\| `([^`\"]+)` \|", (DOCS / "troubleshooting.md").read_text("utf-8"), re.MULTILINE)
    assert len(messages) > 25
    parts = [part.strip() for message in messages for part in message.split("…")]
    absent = [part for part in parts if part not in code]
    assert not absent, absent


def test_commands_without_data_run(tmp_path):
    astronaut = pytest.importorskip("skimage.data").astronaut()
    importlib.import_module("PIL.Image").fromarray(astronaut).save(tmp_path / "photo.jpg", quality=95)
    shown = [" ".join(words) for _, words in command_lines()]
    for line in RUN:
        assert line in shown
        command = [sys.executable, "-m", "launch", *shlex.split(line)[1:]]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment())
        assert result.returncode == 0, f"{line}: {result.stdout}{result.stderr}"
    assert len(json.loads((tmp_path / "out" / "photo.json").read_text())["faces"]) == 1
    assert (tmp_path / "out" / "photo_overlay.png").is_file() and (tmp_path / "model.stablehlo").is_file()


def test_python_of_the_readme_runs(tmp_path):
    astronaut = pytest.importorskip("skimage.data").astronaut()
    importlib.import_module("PIL.Image").fromarray(astronaut).save(tmp_path / "photo.jpg", quality=95)
    (code,) = blocks(ROOT / "README.md", "python")
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment()
    )
    assert result.returncode == 0, result.stderr
    assert "(68, 2)" in result.stdout
