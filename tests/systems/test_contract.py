"""What every system keeps to: its configuration is read, its smoke variant builds, `build` changes no config."""

import ast
import functools
import importlib
import pathlib
import re

import jax
import pytest

from jaxface import system

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("[!_]*.py"))
# Keys of the run itself are read by the training loop and by launch.fit.
ENTRY_POINTS = ("jaxface/training.py", "launch/fit.py")


def configs(name: str):
    return importlib.import_module(f"configs.{name}")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_smoke_variant_builds_and_is_not_changed(name, data_dir):
    config = configs(name).get_config("smoke")
    assert config.batch_size % 4 == 0 and config.steps >= 8
    assert config.steps // config.save_every >= 4 and config.keep == 3
    config.data.dir = data_dir
    config.lock()
    before = config.to_dict()
    built = system.build(config, "the smoke variant")
    resolved = system.resolve(config, "the smoke variant")
    assert config.to_dict() == before
    assert system.resolve(resolved, "the resolved variant").to_dict() == resolved.to_dict()
    assert list(built.evaluators) == list(config.data.evaluate)
    from_resolved = system.build(resolved, "the resolved variant")
    shapes, expected = (jax.eval_shape(one.init, jax.random.key(0)) for one in (built, from_resolved))
    assert jax.tree.leaves(shapes) and shapes == expected


@pytest.mark.parametrize("name", CONFIGS)
def test_an_unknown_variant_is_named(name):
    with pytest.raises(ValueError, match="unknown variant 'none'; choose one of .*smoke"):
        configs(name).get_config("none")


@pytest.mark.parametrize("name", CONFIGS)
def test_every_key_is_read(name):
    variants = [configs(name).get_config(variant).to_dict() for variant in configs(name).VARIANTS]
    keys = {key for values in variants for key in leaf_keys(values)}
    folder = ROOT / "jaxface" / "systems" / variants[0]["system"]
    files = imported([*folder.rglob("*.py"), *(ROOT / path for path in ENTRY_POINTS)], variants[0]["system"])
    source = "".join(path.read_text() for path in files)
    # Keys of a section that is iterated over stand as strings in a table of the system.
    unread = [
        key for key in keys if not re.search(rf'(config|data|model|settings|weights)[\w.]*\.{key}\b|"{key}"', source)
    ]
    assert not unread


def leaf_keys(values: dict) -> set[str]:
    """The names of all values of a nested configuration; `multipliers` has parameter paths as keys."""
    found = set()
    for name, value in values.items():
        nested = isinstance(value, dict) and value and name != "multipliers"
        found |= leaf_keys(value) if nested else {name}
    return found


def imported(files: list[pathlib.Path], own: str) -> set[pathlib.Path]:
    """`files` and all modules of jaxface that they import, without other systems."""
    found, pending = set(), list(files)
    while pending:
        path = pending.pop()
        if path not in found:
            found.add(path)
            pending += [one for one in imports(path) if "systems" not in one.parts or own in one.parts]
    return found


@functools.cache
def imports(path: pathlib.Path) -> list[pathlib.Path]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    files = [ROOT / f"{name.replace('.', '/')}.py" for name in names if name.startswith("jaxface.")]
    return [file for file in files if file.is_file()]
