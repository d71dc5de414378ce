"""Structure: levels of imports, TensorFlow in `data` only, imports without side effects, documented public names."""

import ast
import configparser
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "jaxface").rglob("*.py"))
LEVELS = {
    0: (
        "checksums",
        "config",
        "config_values",
        "deferred",
        "errors",
        "geometry",
        "interrupts",
        "json_files",
        "layouts",
        "nn",
        "storage",
        "system",
    ),
    1: (
        "array_files",
        "checkpoint",
        "compat",
        "config_file",
        "crops",
        "detection",
        "error_plots",
        "heads",
        "hosts",
        "image_decoding",
        "input_processes",
        "jpeg_damage",
        "landmark_metrics",
        "lock",
        "mesh_files",
        "meshes",
        "metric_writer",
        "onnx_graph",
        "optim",
        "outputs",
        "overlay",
        "parallel",
        "photo",
        "pickle_arrays",
        "pickle_tree",
        "pipeline",
        "prepared_data",
        "pretrained",
        "results",
        "run_length",
        "search_copies",
        "smoothing",
        "torch_files",
        "torch_names",
        "torch_weights",
        "video",
        "video_damage",
    ),
    2: ("data",),
    3: ("systems",),
    4: (
        "clips",
        "edits",
        "evaluation",
        "export",
        "folders",
        "head_clips",
        "hlo_cost",
        "hlo_loops",
        "hlo_text",
        "inference",
        "protocols",
        "reporting",
        "training",
    ),
}
LEVEL = {name: level for level, names in LEVELS.items() for name in names}
# Prints the process-wide settings that the import of a module changed, and whether it loaded TensorFlow.
IMPORT_EFFECTS = """
import logging, os, sys, warnings
import jax, flax, optax, absl.logging, ml_collections, cv2, tensorboardX, trimesh
from orbax.checkpoint import v1
state = lambda: (
    dict(os.environ), list(warnings.filters), logging.root.level, list(logging.root.handlers),
    {name: (one.level, list(one.filters), list(one.handlers)) for name, one in logging.root.manager.loggerDict.items()
     if isinstance(one, logging.Logger) and (one.level or one.filters or one.handlers)},
)
before = state()
import MODULE
print([name for name, old, new in zip(("environ", "filters", "level", "handlers", "loggers"), before, state())
       if old != new], "tensorflow" in sys.modules)
"""


def part(path: pathlib.Path) -> str:
    """The part of the package that a file belongs to: a folder, or a module."""
    return path.relative_to(ROOT / "jaxface").parts[0].removesuffix(".py")


def imports(path: pathlib.Path) -> set[str]:
    """Dotted names imported anywhere in a file, `from a import b` as a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def public(path: pathlib.Path) -> list[ast.AST]:
    body = ast.parse(path.read_text()).body
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [node for node in body if isinstance(node, kinds) and not node.name.startswith("_")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: pathlib.Path):
    importer = part(path)
    if importer == "__init__":
        return
    inside = {name.split(".")[1]: name for name in imports(path) if name.startswith("jaxface.")}
    too_high = [name for other, name in inside.items() if other != importer and LEVEL[other] > LEVEL[importer]]
    assert not too_high
    if importer == "systems":
        systems = {name.split(".")[2] for name in imports(path) if name.startswith("jaxface.systems.")}
        assert systems <= {path.relative_to(ROOT / "jaxface" / "systems").parts[0]}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_tensorflow_stays_in_data(path: pathlib.Path):
    packages = {name.split(".")[0] for name in imports(path)}
    if part(path) != "data":
        assert not packages & {"tensorflow", "tensorflow_datasets"}


@pytest.mark.parametrize("module", ["jaxface", "jaxface.inference", "jaxface.training"])
def test_importing_changes_nothing_outside_the_package(module):
    """No environment variable, warning filter or logger of others changes, and TensorFlow is not loaded."""
    script = IMPORT_EFFECTS.replace("MODULE", module)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[] False"


def test_jobs_import_relatively():
    """The same files are `launch.x` in a checkout and `jaxface.launch.x` where the package is installed."""
    for path in (ROOT / "launch").rglob("*.py"):
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        absolute = [node.module for node in nodes if not node.level]
        assert not [name for name in absolute if name.split(".")[0] in ("launch", "configs")], path


def test_everything_public_is_documented():
    bare = [f"{path.relative_to(ROOT)}: {node.name}" for path in FILES for node in public(path)
            if not ast.get_docstring(node)]  # fmt: skip
    assert not bare


def test_every_package_is_installed():
    """setup.cfg lists packages by name because configs/ and launch/ become parts of jaxface."""
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg", "utf-8")
    folders = {path.parent.relative_to(ROOT) for top in ("jaxface", "configs", "launch") for path in init_files(top)}
    names = {".".join(folder.parts).removeprefix("jaxface.") for folder in folders} - {"jaxface"}
    assert set(setup["options"]["packages"].split()) == {"jaxface", *(f"jaxface.{name}" for name in names)}


def init_files(top: str) -> list[pathlib.Path]:
    return list((ROOT / top).rglob("__init__.py"))
