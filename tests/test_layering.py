"""The house keeps its levels: who imports whom, TensorFlow in one room only, every public thing documented."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "jaxface").rglob("*.py"))
LEVELS = {
    0: ("nn", "geometry", "system", "layouts", "config", "errors"),
    1: ("parallel", "checkpoint", "config_file", "optim", "metric_writer", "compat", "torch_weights", "torch_names")
    + ("photo", "overlay", "pretrained", "meshes", "video", "heads")
    + ("results", "detection", "crops", "landmark_metrics"),
    2: ("data",),
    3: ("systems",),
    4: ("training", "evaluation", "inference", "folders", "export"),
}
LEVEL = {name: level for level, names in LEVELS.items() for name in names}


def room(path: pathlib.Path) -> str:
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
    own = room(path)
    if own == "__init__":
        return
    inside = {name.split(".")[1]: name for name in imports(path) if name.startswith("jaxface.")}
    too_high = [name for other, name in inside.items() if other != own and LEVEL[other] > LEVEL[own]]
    assert not too_high
    if own == "systems":
        systems = {name.split(".")[2] for name in imports(path) if name.startswith("jaxface.systems.")}
        assert systems <= {path.relative_to(ROOT / "jaxface" / "systems").parts[0]}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_tensorflow_stays_in_data(path: pathlib.Path):
    tops = {name.split(".")[0] for name in imports(path)}
    if room(path) != "data":
        assert not tops & {"tensorflow", "tensorflow_datasets"}


def test_everything_public_is_documented():
    bare = [f"{path.relative_to(ROOT)}: {node.name}" for path in FILES for node in public(path)
            if not ast.get_docstring(node)]  # fmt: skip
    assert not bare
