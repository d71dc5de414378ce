"""The one seam to devices: how a per-device step is compiled and where its arguments lie.

A step is `step(state, batch, constants) -> outputs`, written for one device. It reduces over `AXIS` itself (`lax.pmean`
for gradients, `lax.all_gather(…, tiled=True)` for per-example results), so that its outputs are equal on all devices
and carry no device axis. The same step runs under `jax.pmap` (the default) and under `jax.shard_map`, with bitwise
equal results.
"""

import contextlib
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # The coordinator's barrier has no public name.
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxface.errors import UserError

AXIS = "data"
BACKENDS = ("pmap", "shard_map")
FIRST_TIMEOUT_MS = 6 * 3600 * 1000
# A process alone is its own coordinator, and would end itself for missing heartbeats when a laptop wakes up.
LONGEST_SLEEP_S = 10 * 24 * 3600

Tree = Any
Devices = Sequence[jax.Device] | None


def compile_step(step: Callable, backend: str = "pmap", devices: Devices = None, donate: bool = True) -> Callable:
    """The compiled form of `step(state, batch, constants)` on `devices` (default: all of all hosts).

    `state` and `constants` come from `replicate`, `batch` from `shard`, with the same backend and devices. `donate`:
    the buffers of `state` are given to the outputs and must not be used again. Raises UserError for an unknown
    backend.
    """
    donated = (0,) if donate else ()
    if backend == "pmap":
        return jax.pmap(step, AXIS, in_axes=(None, 0, None), out_axes=None, devices=devices, donate_argnums=donated)
    mesh = _mesh(backend, devices)
    # check_vma=True would differentiate through the step's own pmean and so give other updates.
    mapped = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(AXIS), PartitionSpec()),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=donated)


def replicate(tree: Tree, backend: str = "pmap", devices: Devices = None) -> Tree:
    """A copy of `tree` (arrays or numpy, equal on all hosts) on every device, sharing no buffer with the original."""
    sharding = NamedSharding(_mesh(backend, devices), PartitionSpec())

    def place(leaf: Any) -> jax.Array:
        # Placing a jax.Array directly may alias it, and donation would then delete the caller's array.
        host = np.array(to_host(leaf), copy=True)
        return jax.make_array_from_process_local_data(sharding, host, host.shape)

    return jax.tree.map(place, tree)


def shard(batch: Tree, backend: str = "pmap", devices: Devices = None) -> Tree:
    """A host-local numpy batch (B,…), split over this host's devices. Raises UserError if they do not divide B."""
    mesh = _mesh(backend, devices)
    local = sum(device.process_index == jax.process_index() for device in mesh.devices.flat)
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))

    def place(leaf: np.ndarray) -> jax.Array:
        if leaf.shape[0] % local:
            raise UserError(
                f"a batch of {leaf.shape[0]} per host does not divide over {local} devices; change batch_size"
            )
        if backend == "pmap":
            leaf = leaf.reshape(local, -1, *leaf.shape[1:])
        return jax.make_array_from_process_local_data(sharding, leaf)

    with jax.transfer_guard_host_to_device("allow"):
        return jax.tree.map(place, batch)


@contextlib.contextmanager
def prefetch(
    batches: Iterator[Tree], depth: int, backend: str = "pmap", devices: Devices = None
) -> Iterator[Iterator[Tree]]:
    """An iterator over sharded batches that a background thread keeps `depth` ahead; leaving ends the thread.

    An error in `batches` is raised where the batch is taken.
    """
    ready: queue.Queue = queue.Queue(max(depth, 1))
    ended = threading.Event()

    def put(item: Any) -> None:
        while not ended.is_set():
            with contextlib.suppress(queue.Full):
                return ready.put(item, timeout=0.1)

    def work() -> None:
        try:
            for batch in batches:
                put((shard(batch, backend, devices), None))
                if ended.is_set():
                    return
            put((None, StopIteration()))
        except Exception as error:  # It belongs to whoever takes the batch.
            put((None, error))

    def taken() -> Iterator[Tree]:
        while True:
            batch, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield batch

    thread = threading.Thread(target=work, daemon=True, name="prefetch")
    thread.start()
    try:
        yield taken()
    finally:
        ended.set()
        thread.join()


def to_host(tree: Tree) -> Tree:
    """The values of replicated arrays as numpy arrays (float32 and so on, same shapes)."""

    def fetch(leaf: Any) -> np.ndarray:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            leaf = leaf.addressable_data(0)
        return np.asarray(jax.device_get(leaf))

    return jax.tree.map(fetch, tree)


def to_global(tree: Tree) -> Tree:
    """Replicated arrays as arrays over the devices of all hosts, which is what a multi-host checkpoint takes."""
    if jax.process_count() == 1:
        return tree
    mesh = Mesh(np.asarray(jax.devices()), (AXIS,))

    def convert(leaf: jax.Array) -> jax.Array:
        if not leaf.is_fully_addressable:
            return leaf
        return multihost_utils.host_local_array_to_global_array(leaf, mesh, PartitionSpec())

    return jax.tree.map(convert, tree)


def local_batch_size(batch_size: int) -> int:
    """This host's share of a global batch. Raises UserError where hosts and devices do not divide it."""
    if batch_size <= 0 or batch_size % jax.device_count():
        raise UserError(
            f"batch_size {batch_size} does not divide over the {jax.device_count()} devices "
            f"of {jax.process_count()} hosts; choose a multiple of {jax.device_count()}"
        )
    return batch_size // jax.process_count()


def initialize(coordinator: str = "", num_processes: int = 0, process_id: int = -1) -> None:
    """Joins the hosts of a run; must come before any use of a device.

    `coordinator` is "HOST:PORT" (then `num_processes` and `process_id` say who this is), "auto" on SLURM, Kubernetes
    and Cloud TPU, or "" for a single host. A single host is initialised as well: only so is SIGTERM noticed in time
    to save. Raises UserError where the three do not fit together.
    """
    if coordinator == "auto":
        jax.distributed.initialize()
    elif coordinator:
        if not 0 <= process_id < num_processes:
            raise UserError("--coordinator HOST:PORT needs --num_processes N and --process_id I with 0 <= I < N")
        jax.distributed.initialize(coordinator, num_processes, process_id)
    elif num_processes > 1 or process_id > 0:
        raise UserError("--num_processes and --process_id need --coordinator HOST:PORT")
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        raise UserError("this is one of several SLURM tasks: pass --coordinator auto")
    else:
        address = f"127.0.0.1:{free_port()}"
        jax.distributed.initialize(
            address, 1, 0, coordinator_bind_address=address, heartbeat_timeout_seconds=LONGEST_SLEEP_S
        )


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextlib.contextmanager
def process_zero_first(name: str) -> Iterator[None]:
    """Runs the body on process 0, then on all others; `name` must be unique in a run. For making shared files once."""
    # A collective would give up after half a minute on the CPU: the hosts meet at the coordinator instead.
    client = distributed.global_state.client if jax.process_count() > 1 else None
    if client and jax.process_index() != 0:
        client.wait_at_barrier(name, FIRST_TIMEOUT_MS)
    try:
        yield
    finally:
        if client and jax.process_index() == 0:
            client.wait_at_barrier(name, FIRST_TIMEOUT_MS)


def all_hosts(flag: bool) -> bool:
    """Whether `flag` holds on every host; a meeting point of all hosts."""
    return bool(np.all(multihost_utils.process_allgather(np.asarray(flag))))


def stop_requested(step: int) -> bool:
    """Whether SIGTERM reached any host and `step` is the one at which all of them save and leave.

    To be asked at every step by every host; always False where `initialize` was not called.
    """
    return multihost_utils.reached_preemption_sync_point(step)


def _mesh(backend: str, devices: Devices) -> Mesh:
    """pmap takes host-local arrays, shard_map arrays over all hosts: the mesh that its arguments are placed on."""
    if backend not in BACKENDS:
        raise UserError(f"unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    chosen = list(jax.devices() if devices is None else devices)
    if backend == "pmap":
        chosen = [device for device in chosen if device.process_index == jax.process_index()]
    return Mesh(np.asarray(chosen), (AXIS,))
