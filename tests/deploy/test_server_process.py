"""A server in a process of its own: it stops without losing a request, and stands being overrun."""

import signal
import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

import zsad
from helpers.server_process import serving, serving_brightness
from helpers.serving import Brightness, noise_png, png
from zsad.errors import ConfigError

pytestmark = pytest.mark.slow


def ask(url, content=None, **options):
    answer = httpx.post(f"{url}/v1/predict", content=content or png(), timeout=60, **options)
    return answer.status_code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_accepted_before_the_signal_is_answered(number):
    with serving_brightness(2.0, max_batch=4) as server, ThreadPoolExecutor(24) as pool:
        accepted = [pool.submit(ask, server.url) for _ in range(20)]
        server.wait_accepted(20)
        server.process.send_signal(number)
        deadline = time.monotonic() + 5
        while httpx.get(f"{server.url}/ready", timeout=30).status_code != 503:
            assert time.monotonic() < deadline
        assert ask(server.url) == 503
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert [each.result() for each in accepted] == [200] * 20
        assert server.process.wait(10) == 0
    events = [line["event"] for line in server.logs]
    assert events[-1] == "stopped"
    assert "stopping" in events


def test_a_body_that_is_on_its_way_at_the_signal_is_answered():
    content = noise_png(0, 300)

    def slowly():
        for start in range(0, len(content), 50_000):
            yield content[start : start + 50_000]
            time.sleep(0.3)

    with serving_brightness(0.01) as server, ThreadPoolExecutor(1) as pool:
        sent = pool.submit(ask, server.url, slowly())
        time.sleep(0.5)
        server.process.terminate()
        assert sent.result() == 200
        assert server.process.wait(10) == 0


def test_a_second_signal_ends_at_once():
    with serving_brightness(1.0, max_batch=1) as server, ThreadPoolExecutor(30) as pool:
        asked = [pool.submit(ask, server.url) for _ in range(30)]
        server.wait_accepted(30)
        server.process.terminate()
        time.sleep(0.3)
        server.process.terminate()
        server.process.wait(3)
        assert not all(each.exception() is None and each.result() == 200 for each in asked)


def test_overrun_gives_429_and_memory_stays_flat():
    content = noise_png(0, 300)
    with serving_brightness(0.5, max_queue=16, max_images=4, max_batch=8) as server:
        statuses: list[int] = []
        end = time.monotonic() + 8
        peaks = []

        def client():
            with httpx.Client(timeout=60) as session:
                while time.monotonic() < end:
                    answer = session.post(f"{server.url}/v1/predict", content=content)
                    statuses.append(answer.status_code)
                    if answer.status_code == 429:
                        assert int(answer.headers["retry-after"]) >= 1
                        time.sleep(0.01)

        threads = [threading.Thread(target=client) for _ in range(48)]
        for thread in threads:
            thread.start()
        while time.monotonic() < end:
            time.sleep(0.5)
            peaks.append(server.memory())
        for thread in threads:
            thread.join()
        assert set(statuses) == {200, 429}
        assert statuses.count(200) > 16
        assert max(peaks[-6:]) < 1.15 * max(peaks[2:8])
        assert ask(server.url) == 200


def test_a_client_that_hangs_up_frees_its_place():
    with serving_brightness(0.5, max_batch=1) as server:
        host, port = server.url.removeprefix("http://").split(":")
        body = png()
        head = f"POST /v1/predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        clients = []
        for _ in range(10):
            clients.append(socket.create_connection((host, int(port))))
            clients[-1].sendall(head + body)
        server.wait_accepted(10)
        for client in clients:
            client.close()
        begin = time.monotonic()
        assert ask(server.url) == 200
        assert time.monotonic() - begin < 2.5  # ten images would take five seconds
        text = httpx.get(f"{server.url}/metrics").text
    assert "zsad_queue_images 0.0" in text
    assert [line["status"] for line in server.logs if line.get("status")].count(499) >= 8


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/fit", "/v1/nothing"])
def test_a_refusal_reaches_clients_that_send_much_before_they_read(path):
    with serving_brightness(0.0, token="secret", max_body=1_000_000) as server:
        for content in (bytes(20_000_000), iter([bytes(1_000_000)] * 20)):
            answer = httpx.post(f"{server.url}{path}", content=content, timeout=30)
            assert answer.status_code == 401
        headers = {"Authorization": "Bearer secret"}
        answer = httpx.post(f"{server.url}{path}", content=bytes(20_000_000), headers=headers, timeout=30)
        assert answer.status_code == {"/v1/predict": 413, "/v1/fit": 403, "/v1/nothing": 404}[path]


def test_the_command_serves_a_detector_over_tls(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = subprocess.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext "
        f"subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}".split(),
        check=False,
        capture_output=True,
    )
    if made.returncode:
        pytest.skip("openssl makes no certificate here")
    options = ("--tls-cert", str(certificate), "--tls-key", str(key), "--token", "t")
    with pytest.raises(ConfigError, match="PEM certificate and the key"):
        zsad.serve(Brightness(), port=0, tls_cert=str(key), tls_key=str(certificate))
    context = ssl.create_default_context(cafile=certificate)
    with serving(*options, verify=context) as server:
        assert server.url.startswith("https://")
        headers = {"Authorization": "Bearer t"}
        url = f"{server.url}/v1/predict"
        answer = httpx.post(url, content=png(90, 80, 60), headers=headers, verify=context, timeout=60)
        assert answer.json()["results"][0]["width"] == 80
        server.process.terminate()
        assert server.process.wait(60) == 0


def test_the_command_serves_what_python_predicts(tmp_path):
    content = noise_png(5, 90)
    (tmp_path / "a.png").write_bytes(content)
    expected = zsad.load("anomalyclip").predict(tmp_path / "a.png")
    with serving("--method", "anomalyclip", "--class-name", "object") as server:
        answer = httpx.post(f"{server.url}/v1/predict", files={"file": ("a.png", content)}, timeout=60)
        listed = httpx.get(f"{server.url}/v1/models").json()["models"][0]
    assert answer.json()["results"][0]["score"] == pytest.approx(expected.score, abs=1e-5)
    assert listed["class_name"] == "object"
