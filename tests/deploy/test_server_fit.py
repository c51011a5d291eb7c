"""`POST /v1/fit` and `/v1/references`: a model changes for later requests, and only with permission."""

import copy
import io
import threading
import time

import httpx
import numpy as np
import pytest
from PIL import Image

import zsad
from helpers.image_bytes import encode
from helpers.serving import Brightness, client_of, listening, png, service_of

SIDE = 48


def good(seed):
    """A grey part with its own grain."""
    grain = np.random.default_rng(seed).integers(-12, 12, (SIDE, SIDE, 1))
    return encode(Image.fromarray(np.repeat(128 + grain, 3, axis=2).astype(np.uint8)), "PNG")


def bad():
    pixels = np.asarray(Image.open(io.BytesIO(good(99)))).copy()
    pixels[10:30, 10:30] = (250, 20, 20)
    return encode(Image.fromarray(pixels), "PNG")


GOOD = [("file", (f"good/{seed}.png", good(seed))) for seed in range(6)]


@pytest.fixture(scope="module")
def zero_shot(make_small_clip):
    return zsad.load("winclip", make_small_clip(), device="cpu", scales=(2,))


@pytest.fixture
def detector(zero_shot):
    return copy.copy(zero_shot)


def score(client, content):
    return client.post("/v1/predict", content=content).json()["results"][0]


@pytest.mark.parametrize("path", ["/v1/fit", "/v1/references"])
def test_without_permission_nothing_is_taught(detector, path):
    with client_of(service_of(detector)) as client:
        answer = client.post(path, files=GOOD)
    assert answer.status_code == 403
    assert "--allow-fit" in answer.json()["error"]


@pytest.mark.parametrize("path", ["/v1/fit", "/v1/references"])
def test_a_bundle_says_that_fitting_needs_the_detector(path):
    with client_of(service_of(Brightness(), allow_fit=True)) as client:
        answer = client.post(path, files=GOOD)
    assert answer.status_code == 409
    assert "fitting needs the detector" in answer.json()["error"]


def test_a_fit_promises_and_decides_as_python_does(detector, tmp_path):
    expected = copy.copy(detector)
    paths = []
    for _, (name, content) in GOOD:
        paths.append(tmp_path / name.replace("/", "_"))
        paths[-1].write_bytes(content)
    found = expected.fit(paths, rate=0.1)
    with client_of(service_of(detector, allow_fit=True)) as client:
        before = score(client, bad())
        sent = [*GOOD, ("file", ("copy.png", good(0))), ("file", ("notes.txt", b"hello"))]
        answer = client.post("/v1/fit", files=sent, data={"rate": "0.1"})
        assert answer.status_code == 200, answer.json()
        after = score(client, bad())
        model = client.get("/v1/models").json()["models"][0]
    taught = answer.json()
    assert before["threshold"] is None
    assert taught["threshold"] == after["threshold"] == pytest.approx(expected.threshold, abs=1e-6)
    assert after["score"] == pytest.approx(expected.predict(Image.open(io.BytesIO(bad()))).score)
    assert after["is_anomalous"] is True
    assert [image["name"] for image in taught["images"]] == [name for _, (name, _) in GOOD]
    assert [image["score"] for image in taught["images"]] == pytest.approx(found.scores, abs=1e-6)
    assert (taught["copies"], taught["file"]) == (1, None)
    assert taught["failed"][0]["name"] == "notes.txt"
    assert "text file" in taught["failed"][0]["error"]
    assert any("confidence at most 10 %" in line for line in taught["promise"])
    assert (model["false_alarm_rate"], model["references"]) == (0.1, 6)
    assert len(model["normal_scores"]) == 6
    assert detector.threshold is None  # the copy was taught


def test_images_can_be_added_to_a_fit_and_the_file_is_kept(detector, tmp_path):
    with client_of(service_of(detector, allow_fit=True, keep=str(tmp_path))) as client:
        refused = client.post("/v1/fit", files=GOOD, data={"add": "true"})
        assert refused.status_code == 422
        assert client.post("/v1/fit", files=GOOD[:4]).status_code == 200
        more = client.post("/v1/fit", files=GOOD[4:], data={"add": "yes"}).json()
    assert len(more["images"]) == 6
    assert more["file"] == "default.safetensors"
    assert (tmp_path / more["file"]).is_file()


def test_a_model_with_tiles_needs_all_its_good_images_again(detector, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good").mkdir()
    for _, (name, content) in GOOD:
        (tmp_path / name).write_bytes(content)  # names of clients are never opened
    with client_of(service_of(detector.with_tile(32), allow_fit=True)) as client:
        assert client.post("/v1/fit", files=GOOD[:4]).status_code == 200
        answer = client.post("/v1/fit", files=GOOD[4:], data={"add": "true"})
    assert answer.status_code == 422
    assert "send the old and the new images together, without add" in answer.json()["error"]


def test_references_replace_those_of_a_model_and_its_thresholds(detector):
    with client_of(service_of(detector, allow_fit=True)) as client:
        client.post("/v1/fit", files=GOOD)
        answer = client.post("/v1/references", files=GOOD[:2], data={"augment": "true"})
        assert answer.status_code == 200
        assert (answer.json()["references"], answer.json()["threshold"]) == (2, None)
        assert score(client, bad())["threshold"] is None
        alone = client.post("/v1/references", content=good(1))
        assert alone.json()["references"] == 1


@pytest.mark.parametrize(
    ("form", "status", "words"),
    [
        ({"files": GOOD[:2]}, 422, "3"),
        ({"files": GOOD, "data": {"rate": "much"}}, 422, "rate must be a number"),
        ({"files": GOOD, "data": {"rate": "0.9"}}, 422, "rate"),
        ({"files": GOOD, "data": {"rats": "0.1"}}, 422, "did you mean 'rate'"),
        ({"files": GOOD, "data": {"drop_outliers": "maybe"}}, 422, "true or false"),
        ({"files": [("file", ("a.txt", b"hello"))] * 3}, 415, "text file"),
        ({"files": GOOD, "data": {"model": "other"}}, 404, "unknown model"),
    ],
)
def test_a_fit_that_cannot_be_done_says_why_and_changes_nothing(detector, form, status, words):
    service = service_of(detector, allow_fit=True)
    with client_of(service) as client:
        answer = client.post("/v1/fit", **form)
        assert service.models.find(None).predictor is detector
    assert answer.status_code == status
    assert words in answer.json()["error"]


def test_while_a_fit_runs_others_are_answered_as_before_and_a_second_fit_waits(detector, monkeypatch):
    entered, go = threading.Event(), threading.Event()
    fit = zsad.Detector.fit

    def held(self, *args, **options):
        entered.set()
        assert go.wait(20)
        return fit(self, *args, **options)

    monkeypatch.setattr(zsad.Detector, "fit", held)
    with client_of(service_of(detector, allow_fit=True)) as client:
        before = score(client, png(100, SIDE, SIDE))
        found = []
        thread = threading.Thread(target=lambda: found.append(client.post("/v1/fit", files=GOOD)))
        thread.start()
        assert entered.wait(20)
        during = score(client, png(100, SIDE, SIDE))
        second = client.post("/v1/fit", files=GOOD)
        go.set()
        thread.join()
        after = score(client, png(100, SIDE, SIDE))
    assert during["score"] == before["score"]
    assert second.status_code == 429
    assert int(second.headers["retry-after"]) >= 1
    assert found[0].status_code == 200
    assert after["threshold"] is not None


def test_a_client_that_hangs_up_ends_its_fit(detector, monkeypatch):
    scored, ended = [], threading.Event()
    fit = zsad.Detector.fit

    def long(self, good, progress, **options):
        def slowly(done, total):
            scored.append(done)
            time.sleep(0.5)
            progress(done, total)

        try:
            return fit(self, good, progress=slowly, **options)
        finally:
            ended.set()

    monkeypatch.setattr(zsad.Detector, "fit", long)
    with listening(monkeypatch, detector, allow_fit=True) as url:
        while httpx.get(f"{url}/ready").status_code != 200:
            time.sleep(0.05)
        with pytest.raises(httpx.TimeoutException):
            httpx.post(f"{url}/v1/fit", files=GOOD, timeout=1.5)
        assert ended.wait(20)
        assert len(scored) < 1 + len(GOOD)  # not all were scored without themselves
        assert httpx.get(f"{url}/v1/models").json()["models"][0]["threshold"] is None
        monkeypatch.setattr(zsad.Detector, "fit", fit)
        assert httpx.post(f"{url}/v1/fit", files=GOOD, timeout=60).status_code == 200
