"""Settings of all tests: strict JAX, two CPU devices, no deadlocks with more devices than cores."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")
os.environ.setdefault("JAX_CPU_ENABLE_ASYNC_DISPATCH", "false")

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def shared() -> pathlib.Path:
    """The folder of reference data beside the project; the test is skipped where there is none."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the reference data beside the project")
    return folder
