"""Training steps compiled ahead of time for TPUs that are not attached, and what they cost on one chip.

Needs libtpu (extra `tpu`), but no TPU, no data and no file of a head: see `jaxface.system.with_stand_ins`.
"""

import importlib.util
import logging
import math
import os
import re
from typing import NamedTuple

# Without these, libtpu asks the metadata server of a TPU machine, and a second process on this machine is refused.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import jax
import ml_collections
import numpy as np
from jax.experimental import topologies

from jaxface import hlo_cost, hlo_text, parallel, system, training
from jaxface.errors import UserError

LOG = logging.getLogger("jaxface")
GIB = 2**30
# Chips of a host, which libtpu assumes.
HOST_CHIPS = 4
# XLA's message about a program that is too large.
TOO_LARGE = re.compile(r"Used ([\d.]+[KMGT]?) of ([\d.]+[KMGT]?) hbm")


class Chip(NamedTuple):
    """HBM, peak of bf16 products and bandwidth of the HBM of one chip, and libtpu's name of its configuration."""

    hbm_gib: float
    tflops: float
    gb_per_s: float
    options: dict[str, str]


# Source: cloud.google.com/tpu/docs. Both cores of a v4 chip act as one device, as they always do on v5p.
CHIPS = {
    "v4": Chip(32, 275, 1228, {"chip_config_name": "megacore"}),
    "v5e": Chip(16, 197, 819, {}),
    "v5p": Chip(95, 459, 2765, {}),
    "v6e": Chip(32, 918, 1640, {}),
}


def chips(topology: str) -> tuple[Chip, list[jax.Device]]:
    """The kind of chip and the devices of a topology. Raises UserError if it does not exist."""
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", topology)
    if not found or found[1] not in CHIPS:
        raise UserError(f"--topology {topology}: unknown; give one of {', '.join(CHIPS)} and a grid, such as v5e:4x4")
    if importlib.util.find_spec("libtpu") is None:
        raise ModuleNotFoundError("libtpu is not installed", name="libtpu")
    chip, sides = CHIPS[found[1]], [int(side) for side in found[2].split("x")]
    options = dict(chip.options)
    if math.prod(sides) < HOST_CHIPS:
        options["chips_per_host_bounds"] = [*sides, 1][:3]
    try:
        return chip, list(topologies.get_topology_desc(topology, "tpu", **options).devices)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0].partition(": ")[2] or str(error)
        raise UserError(f"--topology {topology}: {reason}; choose a grid such as 2x2, 4x4 (v5p: 2x2x2)") from error


def measure(config: ml_collections.ConfigDict, devices: list[jax.Device], chip: Chip, per_chip: int = 0) -> dict:
    """The figures of the training step of a configuration on one of `devices`; keys as `launch.compile` prints them.

    Args:
        config: a configuration; what absent data would determine is replaced by stand-ins.
        devices: the devices of the step, all of the kind `chip`.
        chip: what the memory and the times are measured against.
        per_chip: examples a device; 0 for the configured batch.

    Raises:
        UserError: the batch does not divide over the devices, or the program does not fit into their memory.
    """
    config = system.with_stand_ins(config, "the configuration")
    if per_chip:
        config.batch_size = per_chip * len(devices)
    examples, parts = config.batch_size, len(devices) * config.get("accumulate", 1)
    if examples % parts:
        raise UserError(
            f"config.batch_size {examples} does not divide into {parts} parts, {parts // len(devices)} for each of "
            f"{len(devices)} chips; choose a multiple, or --per_chip"
        )
    built = system.build(config, "the configuration")
    state = jax.eval_shape(lambda: training.initial_state(built, *built.init(jax.random.key(config.seed)), config.ema))
    constants = jax.tree.map(_shape, built.constants())
    step = training.make_step(built, config.seed, config.ema, config.get("accumulate", 1))
    try:
        compiled = parallel.compile_ahead(step, state, system.batch_shapes(config, examples), constants, devices)
    except jax.errors.JaxRuntimeError as error:
        used = TOO_LARGE.search(str(error))
        if not used:
            raise
        raise UserError(
            f"--config: {examples // len(devices)} examples a chip need {used[1]} of {used[2]} HBM; lower --per_chip"
        ) from error
    return figures(compiled, chip, sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)))


def figures(compiled: jax.stages.Compiled, chip: Chip, state_bytes: int) -> dict:
    """The figures of a compiled step with a training state of `state_bytes`."""
    memory = compiled.memory_analysis()
    arguments, outputs = memory.argument_size_in_bytes, memory.output_size_in_bytes
    used = arguments + outputs - memory.alias_size_in_bytes + memory.temp_size_in_bytes
    used += memory.generated_code_size_in_bytes
    cost = hlo_cost.cost(hlo_text.parse(compiled.as_text()))
    if cost.unknown_loops:
        LOG.warning("%d loops run as often as the data demand; they are counted once", cost.unknown_loops)
    products = sum(cost.products.values())
    return {
        "memory_gib": round(used / GIB, 3),
        "hbm_gib": chip.hbm_gib,
        "flops": round(cost.flops),
        "bytes": round(cost.bytes),
        "roofline_ms": {
            "compute": round(cost.flops / chip.tflops / 1e9, 3),
            "memory": round(cost.bytes / chip.gb_per_s / 1e6, 3),
        },
        "all_reduces": cost.all_reduces,
        "all_reduce_bytes": round(cost.all_reduce_bytes),
        "dtypes": {name: round(flops / products, 4) for name, flops in sorted(cost.products.items())},
        "donated": memory.alias_size_in_bytes >= state_bytes,
    }


def _shape(leaf: jax.Array | np.ndarray) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(leaf), jax.dtypes.canonicalize_dtype(leaf.dtype))
