"""Worker processes by themselves, on numbers: nothing is lost and nothing comes twice, whatever dies."""

from __future__ import annotations

import signal
from contextlib import closing

import pytest

from helpers.deadly import Doubling, Numbers
from zsad.detector.workers import Lost, Workers, _reason
from zsad.errors import ConfigError

BATCHES = [Numbers((0, 1, 2)), Numbers((3, 4)), Numbers((5, 6))]
DOUBLED = {number: 2 * number for number in range(7)}


def outcomes_of(setup, batches=BATCHES, devices=("cpu",)):
    workers = Workers(setup, devices, threads=1)
    try:
        pairs = list(workers.run(batches))
    finally:
        workers.close()
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@pytest.mark.slow
def test_workers_live_on_between_runs():
    workers = Workers(Doubling(), ["cpu", "cpu"], threads=1)
    with closing(workers):
        assert dict(workers.run(BATCHES)) == DOUBLED
        alive = [worker.process.pid for worker in workers._workers]
        assert len(set(alive)) == 2
        assert dict(workers.run([Numbers((8,))])) == {8: 16}
        assert [worker.process.pid for worker in workers._workers] == alive
        assert list(workers.run([])) == []
        with pytest.raises(ConfigError, match="13 is refused"):
            list(workers.run([Numbers((13,))]))
        assert workers._workers == []
        assert dict(workers.run(BATCHES)) == DOUBLED  # started once more


@pytest.mark.slow
def test_a_process_that_dies_once_loses_nothing(tmp_path):
    assert outcomes_of(Doubling(deadly=1, marker=tmp_path / "marker")) == DOUBLED
    assert (tmp_path / "marker").exists()


@pytest.mark.slow
def test_only_the_image_to_blame_is_lost():
    found = outcomes_of(Doubling(deadly=4))
    lost = found.pop(4)
    assert lost.is_to_blame
    assert "each time it was read or scored (killed by SIGKILL, often for lack of memory)" in lost.reason
    assert found == {number: value for number, value in DOUBLED.items() if number != 4}


@pytest.mark.slow
def test_a_batch_that_cannot_be_divided_is_lost_as_a_whole():
    found = outcomes_of(Doubling(deadly=3), [BATCHES[0], Numbers((3, 4), is_joint=True), BATCHES[2]])
    assert {key for key, outcome in found.items() if isinstance(outcome, Lost)} == {3, 4}
    assert found[0] == 0
    assert found[6] == 12


@pytest.mark.slow
def test_processes_that_only_die_are_given_up():
    found = outcomes_of(Doubling(dies_at_start=True))
    assert found.keys() == DOUBLED.keys()
    assert not any(outcome.is_to_blame for outcome in found.values())
    assert "not scored, because 6 processes died one after the other" in found[0].reason


def test_nothing_starts_without_a_batch():
    workers = Workers(None, ["cpu"], threads=1)
    assert list(workers.run([])) == []
    workers.close()


def test_an_end_in_words():
    assert _reason(3) == "exit code 3"
    assert _reason(-signal.SIGSEGV) == "killed by SIGSEGV"
    assert _reason(-signal.SIGKILL) == "killed by SIGKILL, often for lack of memory"
    assert _reason(-99) == "killed by 99"
