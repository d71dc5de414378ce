"""Settings of all tests: two CPU devices, synchronous dispatch (avoids deadlocks with more devices than cores)."""

import gc
import os
import pathlib
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")
os.environ.setdefault("JAX_CPU_ENABLE_ASYNC_DISPATCH", "false")

import pytest

ROOT = pathlib.Path(__file__).parents[1]


# A process may have 65,530 memory mappings by default; each compiled program takes some, and without them XLA crashes.
MAX_MAPPINGS = 20_000


@pytest.fixture(scope="module", autouse=True)
def few_compiled_programs():
    """Forgets the compiled programs of earlier test files when there are many."""
    yield
    mappings = pathlib.Path("/proc/self/maps")
    if "jax" in sys.modules and mappings.exists() and mappings.read_bytes().count(b"\n") > MAX_MAPPINGS:
        sys.modules["jax"].clear_caches()
        gc.collect()


@pytest.fixture
def full_precision():
    """Float32 matrix products on every device, as the golden numbers were computed."""
    import jax

    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture
def shared() -> pathlib.Path:
    """Folder of reference data next to the project; skips the test if it does not exist."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder shared/ next to the checkout")
    return folder


@pytest.fixture(scope="session")
def detector_workdir(tmp_path_factory) -> pathlib.Path:
    """The workdir of a tiny continuous detector with random parameters, saved as at step 0."""
    import jax
    import jax.numpy as jnp

    from configs.continuous import get_config
    from jaxface import checkpoint, config_file
    from jaxface.system import TrainState
    from jaxface.systems import continuous

    workdir = tmp_path_factory.mktemp("detector")
    config = get_config("smoke")
    params, model_state = continuous.build(config).init(jax.random.key(0))
    config_file.write(workdir, config)
    with checkpoint.Checkpoints(workdir, keep=1) as saved:
        saved.save(TrainState(jnp.zeros((), jnp.int32), params, model_state, {}, {}))
    return workdir
