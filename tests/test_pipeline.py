"""Work in threads."""

import threading

import pytest

from jaxface import pipeline


def test_results_keep_their_order_and_threads_live_on():
    def names(_: int) -> str:
        return threading.current_thread().name

    assert pipeline.in_threads(lambda number: number**2, iter(range(50))) == [number**2 for number in range(50)]
    used = {*pipeline.in_threads(names, range(50)), *pipeline.in_threads(names, range(50))}
    assert threading.current_thread().name not in used and len(used) <= pipeline.num_threads()


def test_work_inside_of_work_does_not_wait_for_itself():
    def sums(number: int) -> int:
        return sum(pipeline.in_threads(lambda other: number * other, range(4)))

    assert pipeline.in_threads(sums, range(20)) == [6 * number for number in range(20)]


def test_errors_of_the_function_are_raised():
    with pytest.raises(ZeroDivisionError):
        pipeline.in_threads(lambda number: 1 // number, range(3))
