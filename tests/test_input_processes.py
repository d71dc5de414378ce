"""Worker processes that prepare the training batches: the same batches with any number of them, and how they end."""

import importlib
import itertools
import os
import signal

import numpy as np
import pytest

from jaxface import input_processes, parallel, system
from jaxface.errors import UserError


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Mixed batches of two data sets whose composition changes from batch to batch."""
    config = importlib.import_module("configs.pipnet").get_config("smoke")
    config.data.dir = str(tmp_path_factory.mktemp("data"))
    config.data.datasets = (config.data.datasets[0],) * 3
    system.build(config, "the test").train_data(0)  # builds the data set
    return config


def equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, array in one.items():
            np.testing.assert_array_equal(array, other[name])
            assert array.dtype == other[name].dtype and array.flags.writeable


@pytest.mark.parametrize("shares", [(), (3, 1, 2)])
@pytest.mark.parametrize("batch_size", [4, 12])
def test_workers_together_prepare_the_batches_of_one_process(config, monkeypatch, batch_size, shares):
    """Without processes: what each of three workers would send."""
    from jaxface.data import datasets, stream

    config = config.copy_and_resolve_references()
    config.batch_size = batch_size
    split = datasets.Split(stream.open_dataset(config.data.datasets[0], config.data.dir), "train")

    def process(example, seed):
        return {"box": example["box"], "seed": np.int64(seed)}

    def batches(step):
        return datasets.mixed_batches(config, [split] * 3, step, [process] * 3, shares)

    expected = list(itertools.islice(batches(1), 9))
    for worker in range(3):
        monkeypatch.setattr(parallel, "_input_share", parallel.InputShare(0, 1, 3))
        equal(itertools.islice(batches(1 + worker), 3), expected[worker::3])


def test_two_processes_give_the_same_batches_until_they_are_killed(config):
    built = system.build(config, "the test")
    expected = list(itertools.islice(built.train_data(2), 7))
    config = config.copy_and_resolve_references()
    config.input_processes = 2
    with pytest.raises(UserError, match="config.input_processes: a worker process ended with status -9; .*lower"):
        with input_processes.train_data(built, config, 2) as batches:
            equal(itertools.islice(batches, 7), expected)
            for worker in workers():
                os.kill(worker, signal.SIGKILL)
            for _ in range(20):
                next(batches)
    assert not workers()


def test_errors_of_a_worker_are_raised_where_its_batches_are_used(config):
    built = system.build(config, "the test")
    config = config.copy_and_resolve_references()
    config.input_processes, config.seed = 2, -1  # wrong where the workers build the system
    with pytest.raises(UserError, match="config.seed"), input_processes.train_data(built, config, 0) as batches:
        next(batches)


def workers() -> list[int]:
    """Process ids of the workers of this process."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                status = open(f"/proc/{entry.name}/status").read()
                command = open(f"/proc/{entry.name}/cmdline").read()
            except OSError:
                continue
            if f"PPid:\t{os.getpid()}\n" in status and "input_processes" in command:
                found.append(int(entry.name))
    return found
