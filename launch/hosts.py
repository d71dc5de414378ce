"""The flags by which a launcher joins the other hosts of a run."""

from absl import flags

from jaxface import parallel

COORDINATOR = flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, or auto (SLURM, Kubernetes, Cloud TPU)")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", 0, "how many processes take part, with --coordinator HOST:PORT")
PROCESS_ID = flags.DEFINE_integer("process_id", -1, "which of them this one is, from 0")


def join() -> None:
    """Joins the run that the flags name, also where it has this one host only; before any use of a device."""
    parallel.initialize(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
