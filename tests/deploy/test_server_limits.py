"""Limits of a server: each is answered with its status and one line, and nothing is left behind."""

import tempfile
import threading
import time

import pytest

from helpers import image_bytes
from helpers.serving import Brightness, Held, client_of, noise_png, png, service_of

MIB = 2**20


def files(*contents):
    return [("file", (f"{number}.png", content)) for number, content in enumerate(contents)]


def assert_nothing_is_left(service):
    assert (service.places.images, service.places.bytes) == (0, 0)
    assert len(service.pipeline.queue) == 0


@pytest.mark.parametrize("is_declared", [True, False])
def test_a_body_that_is_too_large_is_refused(is_declared):
    service = service_of(max_body=1000)
    content = noise_png()

    def pieces():
        for start in range(0, len(content), 500):
            yield content[start : start + 500]

    with client_of(service) as client:
        answer = client.post("/v1/predict", content=content if is_declared else pieces())
        assert answer.status_code == 413
        assert "1000" in answer.json()["error"]
        assert_nothing_is_left(service)
        assert client.post("/v1/predict", content=png()).status_code == 200


def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded():
    with client_of(service_of(max_pixels=1000)) as client:
        answer = client.post("/v1/predict", content=png(0, 100, 11))
        assert answer.status_code == 413
        assert "100 x 11 = 1100 pixels" in answer.json()["error"]
        assert "raise the limit with the server's --max-pixels=1100" in answer.json()["error"]
        assert "ZSAD_MAX_PIXELS" not in answer.json()["error"]
        both = client.post("/v1/predict", files=files(png(0, 100, 10), png(0, 100, 11)))
        assert both.status_code == 200
        assert [row["error"] is None for row in both.json()["results"]] == [True, False]


def test_an_image_that_would_unpack_to_gigabytes_is_refused_at_once():
    bomb = image_bytes.png(30_000, 30_000, 8, 2, bytes(10_000_000))
    with client_of(service_of()) as client:
        begin = time.perf_counter()
        answer = client.post("/v1/predict", content=bomb)
        assert time.perf_counter() - begin < 1
    assert answer.status_code == 413


def test_too_many_images_are_refused():
    with client_of(service_of(max_images=2)) as client:
        answer = client.post("/v1/predict", files=files(png(), png(), png()))
        assert answer.status_code == 413
        assert "at most 2 images, got 3" in answer.json()["error"]
        many = client.post("/v1/predict", files=files(*[b"x"] * 100))
        assert many.status_code == 413


def in_thread(work):
    """Runs `work` in a thread; gives the thread and the list that its result comes into."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    return thread, found


def wait_until(is_true):
    deadline = time.monotonic() + 10
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_full_queue_answers_429_and_what_was_accepted_is_answered():
    model = Held()
    service = service_of(model, max_queue=3, max_images=3)
    with client_of(service) as client:
        thread, found = in_thread(lambda: client.post("/v1/predict", files=files(png(), png())))
        wait_until(lambda: service.places.images == 2)
        refused = client.post("/v1/predict", files=files(png(), png()))
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert "queue is full" in refused.json()["error"]
        other, also_found = in_thread(lambda: client.post("/v1/predict", content=png()))
        wait_until(lambda: service.places.images == 3)
        assert client.post("/v1/predict", content=png()).status_code == 429
        model.go.set()
        thread.join()
        other.join()
    assert (found[0].status_code, also_found[0].status_code) == (200, 200)
    assert_nothing_is_left(service)


def test_what_could_not_be_scored_in_time_is_refused_at_once():
    service = service_of(Held(), timeout=5)
    with client_of(service) as client:
        thread, _ = in_thread(lambda: client.post("/v1/predict", content=png()))
        wait_until(lambda: service.places.images == 1)
        service.pipeline.queue.seconds_per_image = 4.0
        answer = client.post("/v1/predict", content=png())
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "4"
        service.models.find(None).predictor.go.set()
        thread.join()


def test_uploads_in_memory_are_bounded():
    model, content = Held(), noise_png(0, 50)
    service = service_of(model, max_body=2 * len(content), max_held=2 * len(content))
    with client_of(service) as client:
        thread, _ = in_thread(lambda: client.post("/v1/predict", content=content))
        wait_until(lambda: service.places.images == 1)
        answer = client.post("/v1/predict", files=files(content, content[:50]))
        assert answer.status_code == 429
        assert "uploads" in answer.json()["error"]
        model.go.set()
        thread.join()
    assert_nothing_is_left(service)


def test_a_request_that_takes_too_long_is_answered_and_frees_its_place():
    model = Held()
    service = service_of(model, timeout=0.1)
    with client_of(service) as client:
        answer = client.post("/v1/predict", content=png())
        assert answer.status_code == 503
        assert "0.1 seconds" in answer.json()["error"]
        assert int(answer.headers["retry-after"]) >= 1
        assert_nothing_is_left(service)
        model.go.set()


class Broken(Brightness):
    def predict(self, inputs):
        if inputs[0].size != (64, 64):
            raise ValueError("a defect\nof the model")
        return super().predict(inputs)


def test_a_model_that_fails_is_the_servers_fault_and_told_in_one_line():
    with client_of(service_of(Broken())) as client:
        answer = client.post("/v1/predict", content=png())
    assert answer.status_code == 500
    assert answer.json()["error"] == "a defect of the model"


def test_uploads_never_touch_the_disk(monkeypatch):
    def refuse(*_args, **_options):
        raise AssertionError("a temporary file")

    service = service_of()
    content = noise_png(0, 1200)
    assert len(content) > 4 * MIB
    with client_of(service) as client:
        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
        monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
        monkeypatch.setattr(tempfile, "mkstemp", refuse)
        monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", refuse)
        answer = client.post("/v1/predict?map=png16", files=files(content, png()))
    assert answer.status_code == 200
    assert [row["error"] for row in answer.json()["results"]] == [None, None]


def test_kept_uploads_are_named_by_their_content(tmp_path):
    folder = tmp_path / "kept"
    content = png(30)
    with client_of(service_of(keep=str(folder))) as client:
        for _ in range(2):
            sent = [("file", ("../../out.png", content)), ("file", ("b.txt", b"hello"))]
            assert client.post("/v1/predict?overlay=png", files=sent).status_code == 200
    assert sorted(path.suffix for path in folder.iterdir()) == [".bin", ".jsonl", ".png"]
    (image,) = folder.glob("*.png")
    assert image.read_bytes() == content
    lines = (folder / "results.jsonl").read_text().splitlines()
    assert len(lines) == 4
    assert image.name in lines[0]
    assert "overlay" not in lines[0]
    assert not [path for path in tmp_path.iterdir() if path != folder]


def test_a_folder_that_cannot_be_written_costs_no_answer(tmp_path):
    (tmp_path / "file").write_text("")
    with client_of(service_of(keep=str(tmp_path / "file"))) as client:
        assert client.post("/v1/predict", content=png()).status_code == 200
