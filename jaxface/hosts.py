"""The link between the hosts of a run: each learns within a minute that another one was lost, and ends with one line.

JAX itself notices after 100 s, or not at all if a process is only stopped, and then ends the others by SIGABRT. Here
every host keeps a TCP connection to host 0 and sends a sign of life over it. A connection that breaks, or is silent for
`LOST_AFTER_S`, means that its host was lost: host 0 tells the others, and all end with the exit status `LOST`, on which
schedulers restart a run. A host that is finished says so first (`leave`), as does one that has failed (`fail`).
"""

import contextlib
import itertools
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, wait

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxface import interrupts

LOST = 75  # exit status (EX_TEMPFAIL) of the hosts that remain
LOST_AFTER_S = 40.0
BEATS = 8  # signs of life in this time
CONNECT_TIMEOUT_S = 60.0
MAX_TEXT_BYTES = 1024
ALIVE, BYE, FAILED, LOST_HOST, DONE, INDEX = b"alive", b"bye", b"failed ", b"lost ", b"done ", b"host "
# After the failure of a host the others have this time to end by the same error, if they have it as well.
GRACE_S = 3.0
# A message that was sent just before the process ends still arrives.
DELIVERY_S = 0.5


class Link:
    """The connections of this host: to all others on host 0, to host 0 elsewhere; a thread watches them."""

    def __init__(self, connections: dict[int, Connection], lost_after_s: float):
        self._connections, self._lost_after_s = connections, lost_after_s
        self._seen = dict.fromkeys(connections, time.monotonic())
        self._done: set[tuple[int, bytes]] = set()
        self._ending = False
        self._failed: set[int] = set()
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        threading.Thread(target=self._watch, daemon=True, name="hosts").start()

    def announce(self, name: str) -> None:
        """Tells the connected hosts that `name` is done here."""
        self._send(DONE + name.encode())

    def wait_for(self, name: str) -> None:
        """Returns when every connected host has announced `name`, or has left the run."""
        with self._changed:
            self._changed.wait_for(lambda: all((host, name.encode()) in self._done for host in self._connections))

    def leave(self) -> None:
        """Tells the others that this host is finished; from now on neither they nor this host watch each other."""
        self._ending = True
        self._send(BYE)
        with self._changed:
            self._connections.clear()

    def fail(self, status: int) -> None:
        """Tells the others that this host ends with `status`, and waits until they have ended."""
        self._ending = True
        self._send(FAILED + str(status).encode())
        with self._changed:
            self._changed.wait_for(lambda: not self._connections, GRACE_S + 2 * DELIVERY_S)

    def wait_for_loss(self) -> None:
        """Waits as long as it may take to notice that another host was lost, which ends the process."""
        deadline = time.monotonic() + self._lost_after_s + 2 * self._lost_after_s / BEATS
        with self._changed:
            self._changed.wait_for(lambda: not self._connections, deadline - time.monotonic())

    def _send(self, message: bytes) -> None:
        """Sends to all connections; one that is broken is noticed where messages are received."""
        with self._sending:
            for connection in list(self._connections.values()):
                with contextlib.suppress(OSError):
                    connection.send_bytes(message)

    def _watch(self) -> None:
        interval = self._lost_after_s / BEATS
        beat = time.monotonic()
        while self._connections:
            ready = wait(list(self._connections.values()), timeout=max(beat - time.monotonic(), 0.0))
            for host, connection in list(self._connections.items()):
                if connection in ready:
                    self._receive(host, connection)
            now = time.monotonic()
            if now >= beat:
                self._send(ALIVE)
                # A process that was itself stopped finds all others silent, although their signs of life are waiting.
                late, beat = now - beat > interval, now + interval
                silent = [host for host in self._connections if now - self._seen[host] > self._lost_after_s]
                if silent and not late:
                    self._end(silent[0], f"gave no sign of life for {self._lost_after_s:g} s")

    def _receive(self, host: int, connection: Connection) -> None:
        try:
            message = connection.recv_bytes()
        except (EOFError, OSError):
            if host not in self._failed:
                self._end(host, "ended, or its connection broke")
            self._forget(host)
            return
        self._seen[host] = time.monotonic()
        if message.startswith(LOST_HOST):
            index, _, reason = message.removeprefix(LOST_HOST).decode().partition(" ")
            self._end(int(index), reason)
        elif message.startswith(FAILED):
            self._failed.add(host)
            reason = f"ended with status {message.removeprefix(FAILED).decode()}"
            timer = threading.Timer(GRACE_S, self._end, (host, reason))
            timer.daemon = True
            timer.start()
        elif message.startswith(DONE):
            with self._changed:
                self._done.add((host, message.removeprefix(DONE)))
                self._changed.notify_all()
        elif message == BYE:
            self._forget(host)

    def _forget(self, host: int) -> None:
        with self._changed:
            self._connections.pop(host, None)
            self._changed.notify_all()

    def _end(self, host: int, reason: str) -> None:
        """Ends this process: a thread of XLA may wait for the lost host forever, and Python cannot interrupt it."""
        if self._ending:
            return
        interrupts.print_line(f"error: host {host} {reason}; run the same command again to resume")
        # Only host 0 has others to tell. Those must not wait: JAX ends them by SIGABRT within a second of its end.
        others = [one for one in self._connections if one not in (0, host)]
        if others:
            self._send(LOST_HOST + f"{host} {reason}".encode())
            time.sleep(DELIVERY_S)
        os._exit(LOST)


_link: Link | None = None
_meetings = itertools.count()


def connect(coordinator: str = "", lost_after_s: float = LOST_AFTER_S) -> None:
    """Connects the hosts of a run; all call this once, after `jax.distributed.initialize`.

    Args:
        coordinator: "HOST:PORT" or another name of host 0, by which the others reach it; "": it names itself.
        lost_after_s: time in seconds without a sign of life after which a host counts as lost.
    """
    global _link
    if jax.process_index() == 0:
        key = secrets.token_bytes(16)
        with Listener(("", 0), backlog=jax.process_count(), authkey=key) as listener:
            names = [coordinator.rpartition(":")[0]] if coordinator else _own_names()
            _broadcast(f"{','.join(names)} {listener.address[1]} {key.hex()}")
            connections = _accept(listener, jax.process_count() - 1)
    else:
        names, port, key = _broadcast("").split(" ")
        connection = _reach(names.split(","), int(port), bytes.fromhex(key))
        connection.send_bytes(INDEX + str(jax.process_index()).encode())
        connections = {0: connection}
    _link = Link(connections, lost_after_s)


@contextlib.contextmanager
def process_zero_first(name: str) -> Iterator[None]:
    """Runs the body on process 0, then on all others, to create shared files once; `name` is unique in a run."""
    # Collectives time out after half a minute on CPUs, and the body may prepare a data set for hours.
    if _link is not None and jax.process_index() != 0:
        _link.wait_for(name)
    try:
        yield
    finally:
        if _link is not None and jax.process_index() == 0:
            _link.announce(name)


def meet() -> None:
    """Returns when all hosts of the run have called this as often as this one."""
    if _link is None:
        return
    name = f"meeting {next(_meetings)}"
    if jax.process_index() == 0:
        _link.wait_for(name)
        _link.announce(name)
    else:
        _link.announce(name)
        _link.wait_for(name)


@contextlib.contextmanager
def losses_end_the_process() -> Iterator[None]:
    """A context in which an error of XLA that a lost host causes ends the process as that loss does."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if _link is not None and "RESOURCE_EXHAUSTED" not in str(error):
            _link.wait_for_loss()
        raise


def fail(status: int) -> None:
    """Tells the other hosts, if any, that this one ends with an exit status other than 0."""
    if _link is not None:
        _link.fail(status)


def leave() -> None:
    """Tells the other hosts, if any, that this one is finished."""
    global _link
    if _link is not None:
        _link.leave()
        _link = None


def connected() -> bool:
    """Whether other hosts wait for this one: it must end at once if it fails, or leave."""
    return _link is not None


def _broadcast(text: str) -> str:
    """The text of host 0, on all hosts."""
    padded = np.zeros(MAX_TEXT_BYTES, np.uint8)
    padded[: len(text)] = np.frombuffer(text.encode(), np.uint8)
    sent = np.asarray(multihost_utils.broadcast_one_to_all(padded)).astype(np.uint8)
    return sent.tobytes().rstrip(b"\0").decode()


def _own_names() -> list[str]:
    """Names and the address of this host by which others may reach it, the likeliest first."""
    names = [socket.gethostname(), socket.getfqdn()]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Chooses the interface of the default route; nothing is sent.
        probe.connect(("192.0.2.1", 9))
        names.insert(0, probe.getsockname()[0])
    return names


def _reach(names: list[str], port: int, key: bytes) -> Connection:
    """A connection to host 0. Raises ConnectionError if it cannot be reached under any of its names."""
    deadline, reasons = time.monotonic() + CONNECT_TIMEOUT_S, {}
    while time.monotonic() < deadline:
        for name in names:
            try:
                return Client((name.strip("[]"), port), authkey=key)
            except OSError as error:
                reasons[name] = error
        time.sleep(1.0)
    described = ", ".join(f"{name}:{port}: {reason}" for name, reason in reasons.items())
    raise ConnectionError(f"host 0 cannot be reached ({described}); open the ports between the hosts")


def _accept(listener: Listener, count: int) -> dict[int, Connection]:
    """The connections of `count` hosts, by their index."""
    connections: dict[int, Connection] = {}
    while len(connections) < count:
        # Others than the hosts of the run, which do not know the key.
        with contextlib.suppress(OSError, EOFError, ValueError, AuthenticationError):
            connection = listener.accept()
            connections[int(connection.recv_bytes().removeprefix(INDEX))] = connection
    return connections
