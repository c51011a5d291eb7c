"""A batch that fails is tried image by image, so that one image never stops the others."""

from __future__ import annotations

import pytest

from zsad.errors import ConfigError, DataError
from zsad.images.scoring import score_batch


class Network:
    """Doubles numbers; runs out of memory above a batch size and cannot take 13."""

    def __init__(self, most=8):
        self.most, self.calls = most, []

    def __call__(self, items):
        self.calls.append(list(items))
        if len(items) > self.most:
            raise RuntimeError("CUDA out of\nmemory")
        if 13 in items:
            raise DataError("13 is unlucky")
        return [2 * item for item in items]


def test_a_batch_goes_through_at_once():
    network = Network()
    assert score_batch(network, [1, 2, 3]) == [2, 4, 6]
    assert network.calls == [[1, 2, 3]]


def test_a_batch_that_fails_is_tried_image_by_image():
    network = Network(most=2)
    assert score_batch(network, [1, 13, 3]) == [2, "13 is unlucky", 6]
    assert network.calls == [[1, 13, 3], [1], [13], [3]]


def test_one_image_that_fails_is_not_tried_again():
    network = Network(most=0)
    assert score_batch(network, [1]) == ["CUDA out of memory"]
    assert network.calls == [[1]]


def test_images_that_depend_on_each_other_are_not_tried_alone():
    network = Network(most=2)
    assert score_batch(network, [1, 2, 3], is_joint=True) == ["CUDA out of memory"] * 3
    assert network.calls == [[1, 2, 3]]


def test_no_image_needs_no_network():
    assert score_batch(None, []) == []


@pytest.mark.parametrize("error", [ConfigError("a setting"), KeyboardInterrupt(), KeyError("bug")])
def test_what_no_other_image_would_escape_is_raised(error):
    def refuse(items):
        raise error

    with pytest.raises(type(error)):
        score_batch(refuse, [1, 2])


def test_the_failed_batch_is_released_before_its_images_are_tried():
    import gc
    import weakref

    class Memory:
        pass

    held = []

    def score(items):
        memory = Memory()
        if len(items) > 1:
            held.append(weakref.ref(memory))
            raise MemoryError
        assert held[0]() is None
        return items

    gc.disable()
    try:
        assert score_batch(score, [1, 2]) == [1, 2]
    finally:
        gc.enable()
