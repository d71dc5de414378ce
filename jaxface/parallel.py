"""The only module that handles devices: compiles a per-device step, places its arguments, synchronises hosts.

A step is `step(state, batch, constants) -> outputs`, written for one device. It reduces over `AXIS` itself (`lax.pmean`
for gradients, `lax.all_gather(…, tiled=True)` for per-example results), so that its outputs are equal on all devices
and have no device axis. The same step runs under `jax.pmap` (the default) and under `jax.shard_map`, with bitwise equal
results.
"""

import contextlib
import functools
import os
import queue
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxface import hosts
from jaxface.errors import UserError

AXIS = "data"
# Elements of an array up to which copying it costs less than an all-reduce of its own.
SMALL = 2**14
BACKENDS = ("pmap", "shard_map")
# A single process is its own coordinator and would abort for missing heartbeats when a laptop wakes up.
HEARTBEAT_TIMEOUT_S = 10 * 24 * 3600

Tree = Any
Devices = Sequence[jax.Device] | None


def compile_step(step: Callable, backend: str = "pmap", devices: Devices = None, donate: bool = True) -> Callable:
    """Compiles `step(state, batch, constants)` for several devices.

    Args:
        step: the per-device function.
        backend: one of `BACKENDS`.
        devices: default: all devices of all hosts.
        donate: whether the buffers of `state` are donated to the outputs; the caller must not use them again.

    Returns:
        A function that takes `state` and `constants` from `replicate` and `batch` from `shard`, with the same backend
        and devices. In a run of several hosts it first runs when all have compiled it.

    Raises:
        UserError: for an unknown backend.
    """
    jitted = _jitted(step, backend, devices, donate)
    return _compiled_on_all_hosts(jitted) if hosts.connected() else jitted


def _jitted(step: Callable, backend: str, devices: Devices, donate: bool) -> Callable:
    donated = (0,) if donate else ()
    if backend == "pmap":
        return jax.pmap(step, AXIS, in_axes=(None, 0, None), out_axes=None, devices=devices, donate_argnums=donated)
    mesh = _mesh(backend, devices)
    # check_vma=True would differentiate through the step's own pmean and compute other updates.
    mapped = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(AXIS), PartitionSpec()),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=donated)


def _compiled_on_all_hosts(jitted: Callable) -> Callable:
    """`jitted`, which first runs when all hosts have compiled it for the arguments of the first call.

    Collectives on CPUs wait only 30 s for the other hosts, and hosts may take minutes longer than others to compile.
    """
    waiting = True

    def call(*arguments: Tree) -> Tree:
        nonlocal waiting
        if waiting:
            # The call below finds this executable in JAX's cache.
            jitted.lower(*arguments).compile()
            hosts.meet()
            waiting = False
        return jitted(*arguments)

    return call


def compile_ahead(
    step: Callable, state: Tree, batch: Tree, constants: Tree, devices: Sequence[jax.Device]
) -> jax.stages.Compiled:
    """Compiles `step(state, batch, constants)` for devices that need not be attached, by shard_map.

    Args:
        step: the per-device function.
        state, batch, constants: `jax.ShapeDtypeStruct`s; the first axis of `batch` is that of all devices together.
        devices: those of a `jax.experimental.topologies` description, or attached ones.
    """
    mesh = _mesh("shard_map", devices)

    def placed(tree: Tree, spec: PartitionSpec) -> Tree:
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)

    arguments = placed(state, PartitionSpec()), placed(batch, PartitionSpec(AXIS)), placed(constants, PartitionSpec())
    return _jitted(step, "shard_map", devices, donate=True).lower(*arguments).compile()


def mean_over_devices(tree: Tree) -> Tree:
    """Mean over all devices of a tree of arrays, inside a step.

    Integers, such as counters, are equal on all devices and are returned unchanged. Small float32 arrays travel in one
    all-reduce; those of large ones are combined by XLA's compilers for GPUs and TPUs.
    """
    leaves, structure = jax.tree.flatten(tree)
    if lax.axis_size(AXIS) == 1:
        return tree
    small = [index for index, leaf in enumerate(leaves) if leaf.dtype == jnp.float32 and leaf.size <= SMALL]
    if small:
        joined = lax.pmean(jnp.concatenate([leaves[index].ravel() for index in small]), AXIS)
        ends = np.cumsum([leaves[index].size for index in small])[:-1]
        for index, part in zip(small, jnp.split(joined, ends), strict=True):
            leaves[index] = part.reshape(leaves[index].shape)
    for index in set(range(len(leaves))) - set(small):
        if jnp.issubdtype(leaves[index].dtype, jnp.inexact):
            leaves[index] = lax.pmean(leaves[index], AXIS)
    return jax.tree.unflatten(structure, leaves)


def replicate(tree: Tree, backend: str = "pmap", devices: Devices = None) -> Tree:
    """Copies `tree` (JAX or numpy arrays, equal on all hosts) to every device; buffers are not shared."""
    sharding = NamedSharding(_mesh(backend, devices), PartitionSpec())

    def place(leaf: Any) -> jax.Array:
        # device_put of a jax.Array may alias it, and donation would then delete the caller's array.
        host = np.array(to_host(leaf), copy=True)
        return jax.make_array_from_process_local_data(sharding, host, host.shape)

    return jax.tree.map(place, tree)


def shard(batch: Tree, backend: str = "pmap", devices: Devices = None) -> Tree:
    """Splits a host-local numpy batch (B,…) over this host's devices. Raises UserError if they do not divide B."""
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
    """A context with an iterator over sharded batches, filled by a background thread that ends with the context.

    Args:
        batches: host-local numpy batches. An error of this iterator is raised where the batch is consumed.
        depth: number of batches that are prepared ahead.
        backend, devices: see `compile_step`.
    """
    ready: queue.Queue = queue.Queue(max(depth, 1))
    closed = threading.Event()

    def put(item: Any) -> None:
        while not closed.is_set():
            with contextlib.suppress(queue.Full):
                return ready.put(item, timeout=0.1)

    def produce() -> None:
        try:
            for batch in batches:
                put((shard(batch, backend, devices), None))
                if closed.is_set():
                    return
            put((None, StopIteration()))
        except Exception as error:  # raised again in the consumer
            put((None, error))

    def consume() -> Iterator[Tree]:
        while True:
            batch, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield batch

    thread = threading.Thread(target=produce, daemon=True, name="prefetch")
    thread.start()
    try:
        yield consume()
    finally:
        closed.set()
        thread.join()


def to_host(tree: Tree) -> Tree:
    """Replicated arrays as numpy arrays of the same shapes and dtypes."""

    def fetch(leaf: Any) -> np.ndarray:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            leaf = leaf.addressable_data(0)
        return np.asarray(jax.device_get(leaf))

    return jax.tree.map(fetch, tree)


def to_global(tree: Tree) -> Tree:
    """Replicated arrays as global arrays over the devices of all hosts, which a multi-host checkpoint needs."""
    if jax.process_count() == 1:
        return tree
    mesh = Mesh(np.asarray(jax.devices()), (AXIS,))

    def convert(leaf: jax.Array) -> jax.Array:
        if not leaf.is_fully_addressable:
            return leaf
        return multihost_utils.host_local_array_to_global_array(leaf, mesh, PartitionSpec())

    return jax.tree.map(convert, tree)


class InputShare(NamedTuple):
    """The training batches that a process prepares: of those of host number `host` of `hosts` every `stride`-th."""

    host: int
    hosts: int
    stride: int = 1


# Set in worker processes (`input_processes`) only, which must not ask JAX: they are not part of the run.
_input_share: InputShare | None = None


def input_share() -> InputShare:
    """What this process prepares."""
    return _input_share or InputShare(jax.process_index(), jax.process_count())


def set_input_share(share: InputShare) -> None:
    """Makes this process one that prepares `share` and does not train."""
    global _input_share
    _input_share = share


def local_batch_size(batch_size: int) -> int:
    """This host's share of a global batch size. Raises UserError if the devices of all hosts do not divide it."""
    if _input_share is not None:
        return batch_size // _input_share.hosts
    if batch_size <= 0 or batch_size % jax.device_count():
        raise UserError(
            f"batch_size {batch_size} does not divide over the {jax.device_count()} devices "
            f"of {jax.process_count()} hosts; choose a multiple of {jax.device_count()}"
        )
    return batch_size // jax.process_count()


def initialize(
    coordinator: str = "", num_processes: int = 0, process_id: int = -1, lost_after_s: float = hosts.LOST_AFTER_S
) -> None:
    """Initialises jax.distributed and the link between the hosts; must be called before any use of a device.

    A single host is initialised as well, because JAX handles SIGTERM only then.

    Args:
        coordinator: "HOST:PORT" of process 0, "auto" on SLURM, Kubernetes and Cloud TPU, or "" for a single host.
        num_processes: number of processes of the run, with "HOST:PORT".
        process_id: index of this process, with "HOST:PORT".
        lost_after_s: see `hosts.connect`.

    Raises:
        UserError: if the arguments contradict each other.
    """
    if coordinator == "auto":
        jax.distributed.initialize()
    elif coordinator:
        if not 0 <= process_id < num_processes:
            raise UserError(
                "--coordinator HOST:PORT: the number of this process is missing or wrong; give --num_processes N and "
                "--process_id 0 to N - 1"
            )
        jax.distributed.initialize(coordinator, num_processes, process_id)
    elif num_processes > 1 or process_id > 0:
        raise UserError("--num_processes and --process_id: no address of process 0; give --coordinator HOST:PORT")
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        raise UserError("--coordinator: this is one of several SLURM tasks; pass --coordinator auto")
    else:
        address = f"127.0.0.1:{free_port()}"
        jax.distributed.initialize(
            address, 1, 0, coordinator_bind_address=address, heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S
        )
    if coordinator and jax.process_count() > 1:
        hosts.connect("" if coordinator == "auto" else coordinator, lost_after_s)


def free_port() -> int:
    """An unused TCP port of this machine."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def all_hosts(flag: bool) -> bool:
    """Whether `flag` is true on every host; synchronises all hosts."""
    return flag if jax.process_count() == 1 else bool(np.all(multihost_utils.process_allgather(np.asarray(flag))))


def stop_requested(step: int, interrupted: bool = False) -> bool:
    """Whether any host received SIGTERM and `step` is the one at which all hosts save and stop.

    Every host must call this at every step. Always False if `initialize` was not called.

    Args:
        step: the number of completed steps.
        interrupted: whether this host was interrupted by the user, which stops all hosts as SIGTERM does.
    """
    if interrupted and jax.process_count() == 1:
        return True
    if interrupted:
        _terminate_once()
    return multihost_utils.reached_preemption_sync_point(step)


@functools.cache
def _terminate_once() -> None:
    """Sends SIGTERM to this process, after which JAX agrees with the other hosts on the step at which to stop."""
    os.kill(os.getpid(), signal.SIGTERM)


def _mesh(backend: str, devices: Devices) -> Mesh:
    """The mesh on which arguments are placed: this host's devices for pmap, those of all hosts for shard_map."""
    if backend not in BACKENDS:
        raise UserError(f"unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    chosen = list(jax.devices() if devices is None else devices)
    if backend == "pmap":
        chosen = [device for device in chosen if device.process_index == jax.process_index()]
    return Mesh(np.asarray(chosen), (AXIS,))
