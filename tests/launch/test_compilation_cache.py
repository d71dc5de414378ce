"""The compilation cache of the jobs: where it lies, who turns it off, and how large it becomes."""

import os

import jax
import pytest

from launch import compilation_cache


@pytest.fixture(autouse=True)
def settings(monkeypatch, tmp_path):
    """The settings of JAX as they were, none by the user, and a cache folder of the test."""
    names = ("jax_compilation_cache_dir", "jax_enable_compilation_cache")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if not compilation_cache.flags.FLAGS.is_parsed():
        compilation_cache.flags.FLAGS(["test"])
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_it_lies_in_the_cache_folder_of_the_user(tmp_path):
    compilation_cache.enable()
    folder = jax.config.jax_compilation_cache_dir
    assert os.path.isdir(folder) and folder.startswith(str(tmp_path / "cache" / "jaxface"))


def test_a_folder_of_the_user_is_kept():
    jax.config.update("jax_compilation_cache_dir", "elsewhere")
    compilation_cache.enable()
    assert jax.config.jax_compilation_cache_dir == "elsewhere"


def test_a_home_that_cannot_be_written_to_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    compilation_cache.enable()
    assert jax.config.jax_compilation_cache_dir is None


def test_the_oldest_programs_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation_cache, "MAX_BYTES", 100)
    folder = tmp_path / "cache" / "jaxface" / "other"
    folder.mkdir(parents=True)
    for age in range(5):
        (folder / str(age)).write_bytes(bytes(25))
        os.utime(folder / str(age), (1000 - age, 1000 - age))
    compilation_cache.enable()
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1"]
