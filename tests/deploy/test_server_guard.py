"""Who may ask: tokens, names of the machine, origins; what is logged and counted."""

import json
import logging

import pytest

from helpers.serving import LOCAL, Brightness, client_of, png, service_of
from zsad.deploy.server.logs import write_logs

TOKEN = "correct-horse"


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/models", "/v1/fit", "/v1/nothing", "/v1", "/v1/"])
@pytest.mark.parametrize(
    "header",
    [None, "", TOKEN, "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \u00e4".encode()],
)
def test_every_v1_path_wants_the_token(path, header):
    headers = {} if header is None else {"Authorization": header}
    with client_of(service_of(token=TOKEN)) as client:
        for method in ("GET", "POST"):
            answer = client.request(method, path, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "Authorization: Bearer" in answer.json()["error"]


def test_the_token_opens_and_what_machines_ask_stays_open():
    with client_of(service_of(token=TOKEN)) as client:
        for prefix in ("Bearer", "bearer"):
            headers = {"Authorization": f"{prefix} {TOKEN}"}
            assert client.post("/v1/predict", content=png(), headers=headers).status_code == 200
        for path in ("/health", "/ready", "/metrics", "/openapi.json"):
            assert client.get(path).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("[::1]:8000", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("[", 403),
        ("192.168.0.7", 403),
    ],
)
def test_without_a_token_only_names_of_this_machine_are_answered(host, status):
    with client_of(service_of()) as client:
        assert client.post("/v1/predict", content=png(), headers={"Host": host}).status_code == status
    with client_of(service_of(token=TOKEN)) as client:
        assert client.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [(LOCAL, 200), ("https://evil.example", 403), ("null", 403), ("http://[", 403)],
)
def test_pages_of_other_origins_may_not_ask(origin, status):
    with client_of(service_of()) as client:
        answer = client.post("/v1/predict", content=png(), headers={"Origin": origin})
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers


def test_an_origin_that_is_named_may_ask():
    origin = "https://line.example"
    with client_of(service_of(cors=(origin,), token=TOKEN)) as client:
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        before = client.options(
            "/v1/predict", headers={**asked, "Access-Control-Request-Headers": "authorization"}
        )
        assert before.status_code == 200
        assert before.headers["access-control-allow-origin"] == origin
        headers = {"Origin": origin, "Authorization": f"Bearer {TOKEN}"}
        answer = client.post("/v1/predict", content=png(), headers=headers)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == origin
        other = client.options("/v1/predict", headers={**asked, "Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


def test_ready_waits_for_the_models_and_ends_with_the_stop():
    service = service_of()
    with client_of(service) as client:
        assert client.get("/ready").status_code == 200
        service.models.is_ready = False
        loading = client.get("/ready")
        assert (loading.status_code, client.get("/health").status_code) == (503, 200)
        assert client.post("/v1/predict", content=png()).status_code == 503
        service.models.is_ready, service.is_stopping = True, True
        stopping = client.post("/v1/predict", content=png())
        assert stopping.status_code == client.get("/ready").status_code == 503
        assert "stopping" in stopping.json()["error"]
        assert int(stopping.headers["retry-after"]) >= 1


def test_paths_and_methods_that_do_not_exist_get_one_line():
    with client_of(service_of()) as client:
        assert "GET /openapi.json" in client.get("/nothing").json()["error"]
        wrong = client.get("/v1/predict")
        assert wrong.status_code == 405
        assert wrong.json()["error"].startswith("/v1/predict does not take GET")


def test_metrics_count_requests_images_and_batches():
    with client_of(service_of()) as client:
        sent = [("file", ("a.png", png(200))), ("file", ("b.png", png(10))), ("file", ("c", b"text"))]
        client.post("/v1/predict", files=sent)
        client.post("/v1/predict", content=b"text")
        client.request("INVENTED", "/some/path")
        lines = client.get("/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert values['zsad_requests_total{method="POST",path="/v1/predict",status="200"}'] == "1.0"
    assert values['zsad_requests_total{method="POST",path="/v1/predict",status="415"}'] == "1.0"
    assert values['zsad_requests_total{method="other",path="other",status="404"}'] == "1.0"
    assert values['zsad_images_total{result="anomalous"}'] == "1.0"
    assert values['zsad_images_total{result="normal"}'] == "1.0"
    assert values['zsad_images_total{result="failed"}'] == "2.0"
    assert values["zsad_batch_images_sum"] == "2.0"
    assert values["zsad_queue_images"] == "0.0"
    assert not [line for line in lines if "INVENTED" in line or "/some" in line]


def test_two_servers_count_apart():
    with client_of(service_of()) as one, client_of(service_of()) as other:
        one.post("/v1/predict", content=png())
        assert "zsad_batch_images_sum 1.0" in one.get("/metrics").text
        assert "zsad_batch_images_sum 0.0" in other.get("/metrics").text


class Failing(Brightness):
    def predict(self, inputs):
        if inputs[0].size == (6, 4):
            raise KeyError("secret of the model")
        return super().predict(inputs)


def test_logs_are_lines_of_json_without_content_names_or_tokens(capsys):
    loggers = [logging.getLogger(name) for name in ("zsad.serve", "uvicorn")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    try:
        write_logs()
        with client_of(service_of(Failing(), token=TOKEN)) as client:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            sent = [("file", ("secret.png", png(1, 5, 5)))]
            client.post("/v1/predict", files=sent, headers=headers)
            client.post("/v1/predict", files=sent)
            client.get("/health")
            client.post("/v1/predict", content=png(), headers=headers)
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
    text = capsys.readouterr().err
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["path"], line["status"]) for line in lines] == [
        ("/v1/predict", 200),
        ("/v1/predict", 401),
        ("/v1/predict", 500),
    ]
    assert {"time", "level", "event", "method", "ms", "images"} <= set(lines[0])
    assert (lines[0]["images"], lines[0]["level"], lines[2]["level"]) == (1, "info", "error")
    assert "secret" not in text
    assert TOKEN not in text


@pytest.mark.parametrize(
    "path", ["/health", "/ready", "/metrics", "/openapi.json", "/v1/models", "/", "/page/app.js"]
)
def test_head_is_answered_as_get_without_a_body(path):
    with client_of(service_of()) as client:
        found, whole = client.head(path), client.get(path)
        assert (found.status_code, found.content) == (200, b"")
        assert found.headers["content-type"] == whole.headers["content-type"]
        assert client.head("/v1/predict").status_code == 405
        assert client.head("/nowhere").status_code == 404
        counted = client.get("/metrics").text
        route = {"/page/app.js": "/page/{name}", "/openapi.json": "other"}.get(path, path)
        assert f'zsad_requests_total{{method="HEAD",path="{route}",status="200"}} 1.0' in counted


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("/v1/predict?maps=png16", "unknown name in the query 'maps', did you mean 'map'?"),
        ("/v1/fit?rate=0.01", "unknown name in the query 'rate'; known: model"),
        ("/v1/references?rate=0.01", "unknown name in the query 'rate'"),
        ("/v1/predict?map=png16&%0d%0aX=1", "unknown name in the query"),
    ],
)
def test_unknown_names_in_the_query_are_refused(address, line):
    with client_of(service_of(allow_fit=True)) as client:
        answer = client.post(address, files={"file": ("a.png", png())})
        assert answer.status_code == 422
        assert answer.json()["error"].startswith(line)
        assert "\n" not in answer.json()["error"]
