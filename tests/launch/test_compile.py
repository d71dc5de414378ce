"""launch.compile: what is wrong in one line, and with libtpu the figures of every system within bounds."""

import functools
import importlib
import importlib.util
import math
import pathlib
import subprocess
import sys

import jax
import pytest

from jaxface import parallel, system, training
from jaxface.errors import UserError
from launch import aot

ROOT = pathlib.Path(__file__).parents[2]
HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None
KEYS = [
    "memory_gib", "hbm_gib", "flops", "bytes", "roofline_ms", "all_reduces", "all_reduce_bytes", "dtypes", "donated",
]  # fmt: skip
# Memory in MiB, traffic in MB, all-reduces of the smoke variants on a v5e chip, 8 examples: measured, and a fifth.
BOUNDS = {
    "continuous": (42, 198, 3),
    "pipnet": (58, 269, 18),
    "jvcr": (96, 455, 90),
    "deep3d": (420, 8400, 47),
    "nphm_identity": (25, 133, 3),
    "nphm_expression": (4, 8.2, 3),
}


def smoke(name):
    return importlib.import_module(f"configs.{name}").get_config("smoke")


def run(*flags):
    command = [sys.executable, "-m", "launch.compile", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)


@pytest.mark.parametrize("topology", ["v5e", "v9:2x2", "v5e:", "v5e:axb", "v5e:2x2x2x2", "nothing"])
def test_unknown_topologies_are_named(topology):
    with pytest.raises(UserError, match=f"--topology {topology}: unknown; give one of v4, v5e"):
        aot.chips(topology)


def test_what_is_missing_is_one_line_and_status_2():
    flags = ("--config", "configs/pipnet.py:smoke")
    wrong = [run(*flags), run("--topology=v5e:2x2"), run(*flags, "--topology=v5e:2x2", "--per_chip=0")]
    if not HAS_LIBTPU:
        wrong.append(run(*flags, "--topology=v5e:2x2"))
        assert "needs libtpu; run: pip install 'jaxface[tpu]'" in wrong[-1].stderr
    for done in wrong:
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
        assert not done.stdout


@pytest.mark.parametrize("group", [0, 1])
@pytest.mark.parametrize("name", ["pipnet", "deep3d", "jvcr"])
def test_batch_statistics_need_one_all_reduce_a_layer_and_direction(name, group):
    """Counted before a compiler combines any. All small arrays share one more, and each large gradient has its own."""
    config = system.with_stand_ins(smoke(name), "the test")
    config.model.batch_norm_group = group
    built = system.build(config, "the test")
    state = jax.eval_shape(lambda: training.initial_state(built, *built.init(jax.random.key(0)), config.ema))
    constants = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), built.constants())
    mapped = parallel.compile_step(training.make_step(built, 0, config.ema), "shard_map", jax.devices()[:2])
    text = mapped.lower(state, system.batch_shapes(config, 4), constants).as_text()
    large = sum(leaf.size > parallel.SMALL for leaf in jax.tree.leaves((state.params, state.model_state)))
    assert text.count("stablehlo.all_reduce") <= (0 if group == 1 else statistics_all_reduces(state)) + 1 + large


def statistics_all_reduces(state):
    """One for every batch normalisation forwards, and one backwards."""
    return len(jax.tree.leaves(state.model_state["batch_stats"]))


@functools.cache
def topology():
    jax.config.update("jax_exec_time_optimization_effort", -1.0)
    jax.config.update("jax_enable_compilation_cache", False)
    return aot.chips("v5e:2x2")


@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu (extra tpu)")
@pytest.mark.parametrize("name", BOUNDS)
def test_every_system_compiles_for_tpus_within_bounds(name):
    chip, devices = topology()
    config = smoke(name)
    found = aot.measure(config, devices, chip, 8)
    assert list(found) == KEYS and found["donated"] is True and found["hbm_gib"] == 16
    memory_mib, traffic_mb, all_reduces = BOUNDS[name]
    assert found["memory_gib"] * 1024 <= memory_mib
    assert found["bytes"] / 1e6 <= traffic_mb
    assert found["all_reduces"] <= all_reduces
    assert found["roofline_ms"]["memory"] == pytest.approx(found["bytes"] / 819e6, abs=1e-3)
    assert math.isclose(sum(found["dtypes"].values()), 1, abs_tol=1e-3)


@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu (extra tpu)")
@pytest.mark.parametrize("name", ["pipnet", "deep3d", "jvcr"])
def test_own_batch_statistics_leave_at_most_ten_all_reduces(name):
    chip, devices = topology()
    config = smoke(name)
    config.model.batch_norm_group = 1
    assert aot.measure(config, devices, chip, 8)["all_reduces"] <= 10


@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu (extra tpu)")
def test_a_chip_reduces_the_same_bytes_among_4_and_256():
    topology()
    config = smoke("nphm_expression")
    few, many = (aot.measure(config, *reversed(aot.chips(name)), 8) for name in ("v5e:2x2", "v5e:16x16"))
    for key in ("all_reduces", "all_reduce_bytes"):
        assert few[key] == many[key] > 0


@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu (extra tpu)")
@pytest.mark.parametrize("topology", ["v5e:9x9", "v6e:3x5", "v5e:1x4"])
def test_grids_that_do_not_exist_are_named(topology):
    with pytest.raises(UserError, match=f"--topology {topology}: .*; choose a grid"):
        aot.chips(topology)


@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu (extra tpu)")
@pytest.mark.parametrize(
    "name, count", [("v5e:1x1", 1), ("v5e:4x4", 16), ("v5p:2x2x2", 8), ("v4:2x2x1", 4), ("v6e:2x4", 8)]
)
def test_a_device_is_a_chip(name, count):
    assert len(aot.chips(name)[1]) == count
