"""Reading ahead: order, how far ahead, errors and an early end."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest

from zsad.images.ahead import read_ahead


def test_results_come_in_order_whatever_takes_longest():
    def read(number):
        time.sleep(0.01 * (number % 3))
        return -number

    batches = [[3, 4, 5], [], [8], [2, 1]]
    expected = [[-3, -4, -5], [], [-8], [-2, -1]]
    for ahead in (1, 2, 9):
        assert list(read_ahead(read, batches, ahead=ahead, threads=3)) == expected
    assert list(read_ahead(read, [])) == []


@pytest.mark.parametrize("ahead", [1, 3])
def test_no_more_batches_are_taken_than_promised(ahead):
    taken = []

    def batches():
        for number in range(6):
            taken.append(number)
            yield [number]

    with closing(read_ahead(str, batches(), ahead=ahead)) as reading:
        for done, batch in enumerate(reading):
            assert batch == [str(done)]
            assert len(taken) == min(6, done + 1 + ahead)


def test_the_next_batch_is_read_while_the_caller_works():
    second = threading.Event()

    def read(number):
        if number == 2:
            second.set()
        return number

    with closing(read_ahead(read, [[1], [2], [3]])) as reading:
        assert next(reading) == [1]
        assert second.wait(timeout=10)


def test_an_error_comes_when_its_batch_is_due():
    with closing(read_ahead(lambda number: 1 // number, [[1], [0], [1]])) as reading:
        assert next(reading) == [1]
        with pytest.raises(ZeroDivisionError):
            next(reading)


def test_an_early_end_leaves_no_thread_and_reads_nothing_more():
    read = []
    before = threading.active_count()
    with closing(read_ahead(read.append, [[number] for number in range(100)], threads=1)) as reading:
        next(reading)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    assert read in ([0], [0, 1])


def test_a_result_is_released_when_the_caller_lets_go_of_it():
    import weakref

    class Image:
        pass

    with closing(read_ahead(lambda _: Image(), [[1], [2]])) as reading:
        (image,) = next(reading)
        seen = weakref.ref(image)
        del image
        assert seen() is None
