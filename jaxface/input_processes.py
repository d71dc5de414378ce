"""Worker processes that read and augment the training batches of a host, where one Python process is too slow.

Python's lock bounds the examples a second of one process, however many cores it has. Worker w of W prepares every W-th
batch, from the w-th one on. A batch is a function of (seed, step), so the batches are the same with any number of
workers. A worker is a new Python process, which builds the system from its configuration and sends its batches over a
socket; it uses no accelerator, and ends when the socket does.
"""

import contextlib
import itertools
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import ml_collections
import numpy as np

from jaxface import parallel, system
from jaxface.errors import UserError
from jaxface.system import Batch, System

# Bytes of a header, before it.
_LENGTH = struct.Struct("<Q")


@contextlib.contextmanager
def train_data(built: System, config: ml_collections.ConfigDict, step: int) -> Iterator[Iterator[Batch]]:
    """A context with the training batches from `step` on, prepared by `config.input_processes` processes.

    Args:
        built: the system.
        config: its configuration. With one process the batches are prepared in this one.
        step: number of the first batch.

    Raises:
        UserError: also where a batch is consumed, as `System.train_data` raises it, or if a worker was ended.
    """
    count = config.get("input_processes", 1)
    # With workers this opens the data, builds it if it is missing, and reports what is wrong, all of it once.
    batches = built.train_data(step)
    if count == 1:
        yield batches
        return
    share = parallel.input_share()
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(contextlib.closing(_Worker(config, step + number, share._replace(stride=count))))
            for number in range(count)
        ]
        yield (worker.batch() for worker in itertools.cycle(workers))


class _Worker:
    """A child process that prepares batches."""

    def __init__(self, config: ml_collections.ConfigDict, step: int, share: parallel.InputShare):
        self._socket, theirs = socket.socketpair()
        with theirs:
            program = f"from {__name__} import serve; serve({theirs.fileno()})"
            environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            self._process = subprocess.Popen(
                [sys.executable, "-c", program],
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        _send_object(self._socket, (config.copy_and_resolve_references().to_dict(), step, share))

    def batch(self) -> Batch:
        """The next batch of the worker. Raises what it raised, and UserError if it was ended."""
        try:
            shapes = _receive_object(self._socket)
            if isinstance(shapes, Exception):
                raise shapes
            batch = {name: np.empty(shape, dtype) for name, (shape, dtype) in shapes.items()}
            for array in batch.values():
                _receive_into(self._socket, _bytes(array))
        except (EOFError, ConnectionError) as error:
            raise UserError(
                f"config.input_processes: a worker process ended with status {self._process.wait()}; "
                "its messages are above; lower config.input_processes if the memory of the host was used up"
            ) from error
        return batch

    def close(self) -> None:
        """Ends the process."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


def serve(descriptor: int) -> None:
    """The body of a worker: sends batches over the socket `descriptor` until it is closed."""
    # The run that the worker serves saves and ends in its own time after a signal to all processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as connection, contextlib.suppress(ConnectionError):
        try:
            values, step, share = _receive_object(connection)
            parallel.set_input_share(share)
            built = system.build(ml_collections.ConfigDict(values), "the configuration")
            for batch in built.train_data(step):
                _send_batch(connection, batch)
        except UserError as error:
            _send_object(connection, error)
        except ConnectionError:
            raise
        except Exception:  # raised again where the batch is consumed
            _send_object(connection, RuntimeError(f"in a worker process:\n{traceback.format_exc()}"))


def _send_batch(connection: socket.socket, batch: Batch) -> None:
    arrays = {name: np.ascontiguousarray(array) for name, array in batch.items()}
    _send_object(connection, {name: (array.shape, array.dtype) for name, array in arrays.items()})
    for array in arrays.values():
        connection.sendall(_bytes(array))


def _bytes(array: np.ndarray) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))


def _send_object(connection: socket.socket, value: Any) -> None:
    data = pickle.dumps(value)
    connection.sendall(_LENGTH.pack(len(data)) + data)


def _receive_object(connection: socket.socket) -> Any:
    length = bytearray(_LENGTH.size)
    _receive_into(connection, memoryview(length))
    data = bytearray(_LENGTH.unpack(length)[0])
    _receive_into(connection, memoryview(data))
    return pickle.loads(data)


def _receive_into(connection: socket.socket, buffer: memoryview) -> None:
    """Fills `buffer`. Raises EOFError if the connection ends before."""
    while len(buffer):
        count = connection.recv_into(buffer)
        if not count:
            raise EOFError
        buffer = buffer[count:]
