"""The scoring queue: batches that form by themselves, failures, clients that hang up."""

import asyncio
import threading
import time

import pytest
from PIL import Image

from helpers.serving import Brightness, brightness
from zsad.deploy.server.models import Model
from zsad.deploy.server.pipeline import PixelBudget
from zsad.deploy.server.queue import ScoringQueue, score_each
from zsad.errors import ImageReadError


def image(level=100):
    return Image.new("RGB", (2, 2), (level, level, level))


def with_queue(work, max_wait=0.0, is_more_coming=lambda: False):
    """Runs `work` with a running queue and the (images, seconds) of its batches."""
    observed = []

    async def run():
        queue = ScoringQueue(max_wait, is_more_coming, lambda *batch: observed.append(batch))
        running = asyncio.create_task(queue.run())
        try:
            return await asyncio.wait_for(work(queue), 20)
        finally:
            running.cancel()
            queue.close()

    return asyncio.run(run()), observed


def test_each_image_gets_its_own_prediction_whatever_the_batch():
    model = Model("a", Brightness(0.01), 4)

    async def work(queue):
        return await asyncio.gather(*(queue.score(model, image(level)) for level in range(0, 200, 10)))

    scored, observed = with_queue(work)
    assert [round(each.prediction.score * 255) for each in scored] == list(range(0, 200, 10))
    assert sum(images for images, _ in observed) == 20
    assert max(images for images, _ in observed) == 4
    assert len(observed) <= 6  # what arrives while a batch is scored goes together


def test_a_batch_holds_images_of_one_model_in_their_order():
    first, second = Brightness(0.02), Brightness()

    async def work(queue):
        models = [Model("a", first, 8), Model("b", second, 8)]
        await asyncio.gather(*(queue.score(models[number % 2], image()) for number in range(8)))

    with_queue(work)
    assert sum(first.batches) == sum(second.batches) == 4
    assert len(second.batches) == 1


def test_a_batch_holds_images_of_one_class_name():
    asked = []

    class Naming(Brightness):
        def predict(self, inputs, classes=None):
            asked.append((classes, len(inputs)))
            return super().predict(inputs)

    async def work(queue):
        model = Model("a", Naming(), 8)
        names = [None, "nut", None, "nut", "screw"]
        await asyncio.gather(*(queue.score(model, image(), name) for name in names))

    with_queue(work)
    assert asked == [(None, 2), ("nut", 2), ("screw", 1)]


def test_a_batch_waits_for_images_that_are_coming_and_for_no_others():
    model, coming = Brightness(), True

    async def work(queue):
        nonlocal coming
        early = asyncio.create_task(queue.score(Model("a", model, 8), image()))
        await asyncio.sleep(0.05)
        assert not early.done()
        coming = False
        begin = time.perf_counter()
        await asyncio.gather(early, queue.score(Model("a", model, 8), image()))
        return time.perf_counter() - begin

    async def separate(queue):
        shared = Model("a", model, 8)
        await queue.score(shared, image())
        await queue.score(shared, image())

    with_queue(work, max_wait=10, is_more_coming=lambda: coming)
    with_queue(separate, max_wait=10)
    assert model.batches[-2:] == [1, 1]


class Picky(Brightness):
    """Fails for a batch that holds a black image."""

    def predict(self, inputs):
        self.batches.append(len(inputs))
        if any(each.getpixel((0, 0)) == (0, 0, 0) for each in inputs):
            raise ImageReadError("too dark")
        return [brightness(each) for each in inputs]


def test_a_batch_that_fails_is_scored_image_by_image():
    outcomes = score_each(Picky().predict, [image(9), image(0), image(30)])
    assert [isinstance(outcome, Exception) for outcome in outcomes] == [False, True, False]
    assert outcomes[2].score == pytest.approx(30 / 255)
    assert outcomes[1].__traceback__ is None


def test_a_model_that_gives_too_few_answers_fails_instead_of_mixing_images_up():
    outcomes = score_each(lambda images: [], [image()])
    assert isinstance(outcomes[0], RuntimeError)


def test_an_error_reaches_the_one_who_asked():
    model = Model("a", Picky(), 8)

    async def work(queue):
        return await asyncio.gather(
            *(queue.score(model, image(level)) for level in (0, 50)), return_exceptions=True
        )

    (dark, bright), _ = with_queue(work)
    assert str(dark) == "too dark"
    assert bright.prediction.score == pytest.approx(50 / 255)


def test_who_gives_up_frees_the_place():
    go, scored = threading.Event(), []

    class Slow(Brightness):
        def predict(self, inputs):
            scored.extend(each.getpixel((0, 0))[0] for each in inputs)
            assert go.wait(10)
            return super().predict(inputs)

    async def work(queue):
        model = Model("a", Slow(), 1)
        asked = [asyncio.create_task(queue.score(model, image(level))) for level in (1, 2, 3)]
        await asyncio.sleep(0.05)
        asked[1].cancel()
        await asyncio.sleep(0)
        assert len(queue) == 1
        go.set()
        await asyncio.gather(asked[0], asked[2])

    with_queue(work)
    assert scored == [1, 3]


def test_pixels_in_memory_are_bounded_and_one_large_image_still_comes_through():
    held, most = 0, 0

    async def hold(budget, pixels):
        nonlocal held, most
        async with budget.holding(pixels):
            held += pixels
            most = max(most, held)
            await asyncio.sleep(0.001)
            held -= pixels

    async def run():
        budget = PixelBudget(100)
        await asyncio.gather(*(hold(budget, pixels) for pixels in (60, 60, 30, 40, 10, 70)))
        assert most <= 100
        await hold(budget, 1000)
        await asyncio.gather(hold(budget, 100))

    asyncio.run(asyncio.wait_for(run(), 10))
