"""Compiles a training step for TPUs that are not there: python -m launch.compile --config C --topology v5e:4x4

Prints one JSON line for one chip: memory against its HBM, FLOPs and bytes of a step with the times that they take at
least (loop bodies count times their trip count), all-reduces, types of the products' operands by their share of the
FLOPs, and whether the buffers of the training state are reused. Needs libtpu (extra `tpu`), but no TPU, no data and no
file of a head: what is absent has a stand-in of the published size.
"""

import json

import jax
from absl import flags

from jaxface.errors import UserError

from . import aot, app

CONFIG = app.define_config()
TOPOLOGY = flags.DEFINE_string("topology", None, "generation and grid of the TPUs, for example v5e:4x4 or v5p:2x2x2")
PER_CHIP = flags.DEFINE_integer("per_chip", None, "examples a chip (default: config.batch_size over the chips)", 1)


def main(argv: list[str]) -> None:
    """Prints the figures of the configuration's training step."""
    del argv
    config, topology = app.config(CONFIG), app.required(TOPOLOGY)
    if PER_CHIP.value is not None and PER_CHIP.value < 1:
        raise UserError(f"--per_chip {PER_CHIP.value}: must be at least 1; leave it out for the configured batch")
    # A TPU of this machine stays free: everything but the compilation runs on the CPU.
    jax.config.update("jax_platforms", "cpu")
    # A program for devices that are not attached can be written to the cache, but not read.
    jax.config.update("jax_enable_compilation_cache", False)
    chip, devices = aot.chips(topology)
    print(json.dumps(aot.measure(config, devices, chip, PER_CHIP.value or 0)))


if __name__ == "__main__":
    app.run(main)
