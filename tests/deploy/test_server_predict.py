"""`POST /v1/predict`: the wire form, images that cannot be scored, several models."""

import base64
import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zsad
from helpers.brightness_bundle import brightness_bundle
from helpers.serving import Brightness, brightness, client_of, noise_png, png, service_of
from zsad.deploy.bundle import Promise
from zsad.deploy.web.page import PAGE_FOLDER, page_files
from zsad.images.saving import read_map
from zsad.types import ScoreScale

ROOT = Path(__file__).parents[2]
SCALE = ScoreScale(0.1, (0.2,))

FIELDS = ["name", "score", "is_anomalous", "threshold", "width", "height", "seconds", "error"]


@pytest.fixture(scope="module")
def client():
    with client_of(service_of()) as client:
        yield client


def files(*parts):
    return [("file", part) for part in parts]


def test_a_raw_body_is_one_image(client):
    answer = client.post("/v1/predict", content=png(200, 6, 4))
    assert answer.status_code == 200
    assert list(answer.json()) == ["results"]
    (row,) = answer.json()["results"]
    assert list(row) == FIELDS
    assert row["score"] == pytest.approx(200 / 255)
    assert (row["is_anomalous"], row["threshold"], row["width"], row["height"]) == (True, 0.5, 6, 4)
    assert row["seconds"] >= 0
    assert row["error"] is None


def test_a_form_gives_rows_in_the_order_of_its_files(client):
    levels = [10, 250, 120, 60]
    answer = client.post("/v1/predict", files=files(*((f"{level}.png", png(level)) for level in levels)))
    rows = answer.json()["results"]
    assert [row["name"] for row in rows] == [f"{level}.png" for level in levels]
    assert [round(row["score"] * 255) for row in rows] == levels
    assert [row["is_anomalous"] for row in rows] == [False, True, False, False]


def test_a_damaged_image_among_good_ones_is_a_row(client):
    answer = client.post(
        "/v1/predict", files=files(("a.png", png()), ("cut.png", noise_png()[:900]), ("b.txt", b"hello"))
    )
    assert answer.status_code == 200
    assert "error" not in answer.json()
    good, cut, text = answer.json()["results"]
    assert good["error"] is None
    assert "damaged" in cut["error"]
    assert "text file" in text["error"]
    assert [cut[field] for field in FIELDS[1:-1]] == [None] * 6


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (noise_png()[:900], 422, "damaged"),
        (noise_png()[:20], 422, "cut short"),
        (b"\x89PNG and nothing else", 422, "begins like PNG"),
        (b"hello", 415, "text file"),
        (b"%PDF-1.7 ...", 415, "PDF"),
        (b"PK\x03\x04 and so on", 415, "ZIP"),
        (bytes(range(128, 200)), 415, "not an image"),
        (b"", 422, "empty"),
    ],
)
def test_an_image_alone_that_fails_has_the_status(client, content, status, words):
    for answer in (
        client.post("/v1/predict", content=content),
        client.post("/v1/predict", files=files(("a.png", content))),
    ):
        assert answer.status_code == status
        assert words in answer.json()["error"]
        assert "\n" not in answer.json()["error"]


def test_maps_and_overlays_come_inside_the_row(client):
    content = noise_png(3)
    answer = client.post("/v1/predict?map=png16&overlay=png", content=content)
    (row,) = answer.json()["results"]
    expected = brightness(Image.open(io.BytesIO(content)))
    stored = read_map(io.BytesIO(base64.b64decode(row["map"])))
    assert np.abs(stored - expected.anomaly_map).max() < 1 / 60_000
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(row["overlay"]))))
    assert (shown == np.asarray(expected.overlay())).all()


@pytest.mark.parametrize("query", ["map=png", "overlay=jpg", "map="])
def test_an_unknown_format_is_refused_by_name(client, query):
    answer = client.post(f"/v1/predict?{query}", content=png())
    assert answer.status_code == 422
    assert query.partition("=")[0] in answer.json()["error"]


def test_names_are_labels_and_made_printable(client):
    sent = client.post("/v1/predict", files=files(("../../etc/passwd", png()), ("a\u202eb.png", png())))
    first, second = (row["name"] for row in sent.json()["results"])
    assert first == "../../etc/passwd"
    assert second == "a\\u202eb.png"


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"files": [("image", ("a.png", png()))]}, "name the field 'file'"),
        ({"files": [("file", ("a.png", png()))], "data": {"modle": "x"}}, "did you mean 'model'"),
        ({"data": {"file": "text"}, "files": [("x", (None, "y"))]}, "has no file name"),
        ({"files": [("model", (None, "default"))]}, "holds no image"),
    ],
)
def test_a_form_that_cannot_be_understood_says_why(client, form, words):
    answer = client.post("/v1/predict", **form)
    assert answer.status_code == 422
    assert words in answer.json()["error"]


def test_a_form_that_is_cut_short_is_refused_and_not_half_answered(client):
    whole = client.build_request("POST", "/v1/predict", files=files(("a.png", png()), ("b.png", png())))
    body = whole.read()
    headers = {"content-type": whole.headers["content-type"]}
    assert client.post("/v1/predict", content=body, headers=headers).status_code == 200
    answer = client.post("/v1/predict", content=body[:-40], headers=headers)
    assert answer.status_code == 422
    assert "cut short" in answer.json()["error"]


class Dark(Brightness):
    def predict(self, inputs):
        return [brightness(image.point(lambda level: level // 2)) for image in inputs]


def test_a_request_names_its_model():
    with client_of(service_of(Brightness(), Dark())) as client:

        def score(**request):
            answer = client.post(f"/v1/predict{request.pop('query', '')}", **request)
            return answer.json()["results"][0]["score"] * 255

        assert score(content=png(200)) == pytest.approx(200)
        assert score(content=png(200), query="?model=second") == pytest.approx(100)
        assert score(files=files(("a", png(200))), data={"model": "second"}) == pytest.approx(100)
        unknown = client.post("/v1/predict?model=secund", content=png())
        assert unknown.status_code == 404
        assert "did you mean 'second'?" in unknown.json()["error"]
        both = client.post("/v1/predict?model=second", files=files(("a", png())), data={"model": "default"})
        assert both.status_code == 422


class Named(Brightness):
    """The score is told by the class name."""

    def predict(self, inputs, classes=None):
        self.batches.append(len(inputs))
        return [replace(brightness(image), score=len(classes or "") / 10) for image in inputs]


def test_a_request_names_what_its_images_show():
    with client_of(service_of(Named())) as client:

        def score(**request):
            answer = client.post(f"/v1/predict{request.pop('query', '')}", **request)
            return answer.json()["results"][0]["score"]

        assert score(content=png()) == 0
        assert score(content=png(), query="?class_name=metal%20nut") == 0.9
        assert score(files=files(("a", png())), data={"class_name": "nut"}) == 0.3
        for name in ("x" * 201, "nut\x00"):
            answer = client.post("/v1/predict", content=png(), params={"class_name": name})
            assert answer.status_code == 422
            assert "metal nut" in answer.json()["error"]


def test_a_bundle_refuses_another_class_name(tmp_path):
    folder = brightness_bundle(tmp_path / "bundle", uses_class_names=True, class_name="screw")
    with client_of(service_of(zsad.load_exported(folder))) as client:
        assert client.post("/v1/predict?class_name=screw", content=png()).status_code == 200
        other = client.post("/v1/predict?class_name=nut", content=png())
    assert other.status_code == 422
    assert "'screw'" in other.json()["error"]


def test_the_models_are_listed():
    with client_of(service_of(Brightness(), Dark())) as client:
        answer = client.get("/v1/models").json()
    assert answer["version"] == zsad.__version__
    assert [(model["name"], model["is_default"]) for model in answer["models"]] == [
        ("default", True),
        ("second", False),
    ]
    assert answer["models"][0]["threshold"] == 0.5
    assert answer["models"][0]["can_fit"] is False
    assert "zsad fit" in answer["models"][0]["cannot_fit"]


def test_the_server_answers_as_the_detector_does(tmp_path):
    detector = zsad.load("anomalyclip")
    content = noise_png(1, 80)
    (tmp_path / "a.png").write_bytes(content)
    expected = detector.predict(tmp_path / "a.png")
    with client_of(service_of(detector)) as client:
        (row,) = client.post("/v1/predict", content=content).json()["results"]
        model = client.get("/v1/models").json()["models"][0]
    assert row["score"] == pytest.approx(expected.score, abs=1e-6)
    assert row["is_anomalous"] is None
    assert (model["method"], model["backbone"], model["can_fit"]) == ("anomalyclip", "tiny", True)
    assert "--allow-fit" in model["cannot_fit"]


def test_the_description_of_the_api_has_examples_and_needs_no_other_host(client):
    text = client.get("/openapi.json").text
    described = client.get("/openapi.json").json()
    posted = described["paths"]["/v1/predict"]["post"]
    assert "multipart/form-data" in posted["requestBody"]["content"]
    assert {"200", "401", "413", "415", "422", "429", "503"} <= set(posted["responses"])
    assert described["components"]["schemas"]["PredictAnswer"]["example"]["results"][0]["score"]
    assert "http://" not in text
    assert "https://" not in text
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


def test_the_page_and_all_its_files_come_from_the_server(client):
    page = client.get("/")
    assert page.status_code == 200
    assert client.head("/").status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "unsafe" not in page.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    for path, content in page_files().items():
        if path.startswith(PAGE_FOLDER):
            answer = client.get(f"/{path}")
            assert (answer.status_code, answer.content) == (200, content)
            assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/page/app.py").status_code == client.get("/page/..%2Findex.html").status_code == 404


def test_a_bundle_is_served_with_what_it_knows(tmp_path):
    promise = Promise(0.05, 0.95, ("At most 5 % false alarms.",), ("Few images.",))
    folder = brightness_bundle(
        tmp_path / "bundle",
        threshold=0.5,
        promise=promise,
        references=12,
        score_scale=ScoreScale(0.1, (0.2,)),
    )
    exported = zsad.load_exported(folder)
    content = noise_png(2, 70)
    expected = exported.predict(Image.open(io.BytesIO(content)))
    with client_of(service_of(exported, allow_fit=True)) as client:
        (row,) = client.post("/v1/predict", content=content).json()["results"]
        (model,) = client.get("/v1/models").json()["models"]
        fit = client.post("/v1/fit", content=content)
    assert (row["score"], row["threshold"]) == (pytest.approx(expected.score), 0.5)
    assert (model["runner"], model["method"], model["references"]) == ("onnx", "clip_ac", 12)
    assert (model["false_alarm_rate"], model["promise"]) == (0.05, ["At most 5 % false alarms."])
    assert model["normal_scores"] == [0.2]
    assert (model["can_fit"], fit.status_code) == (False, 409)


def test_serving_a_bundle_loads_no_torch(tmp_path):
    folder = brightness_bundle(tmp_path / "bundle")
    code = (
        "import sys, zsad; from helpers.serving import client_of, png, service_of\n"
        f"with client_of(service_of(zsad.load_exported({str(folder)!r}))) as client:\n"
        "    assert client.post('/v1/predict?overlay=png', content=png(90, 40, 40)).status_code == 200\n"
        "    assert client.get('/v1/models').status_code == 200\n"
        "sys.exit('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["tests", *sys.path])}
    run = subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT, env=environment)
    assert run.returncode == 0
