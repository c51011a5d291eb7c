"""A connection on which no whole request arrives is closed; the others stay."""

from __future__ import annotations

import socket
import time
from types import SimpleNamespace

import httpx
import pytest

from helpers.serving import listening, png
from zsad.deploy.server import running
from zsad.deploy.server.slow_heads import SlowHeads


class Connection:
    def __init__(self, cycle=None):
        self.cycle, self.closed = cycle, False
        self.transport = SimpleNamespace(close=lambda: setattr(self, "closed", True))


def answered():
    return SimpleNamespace(response_complete=True)


def test_time_counts_from_connecting_and_anew_from_each_answer():
    silent, busy, working = Connection(), Connection(), Connection(SimpleNamespace(response_complete=False))
    heads = SlowHeads(10)
    for now in range(0, 20, 2):
        busy.cycle = answered() if now == 6 else busy.cycle
        heads.close([silent, busy, working], now)
        assert silent.closed == (now > 10)
        assert busy.closed == (now > 16)
    assert not working.closed
    working.cycle = answered()
    assert [heads.close([working], now) for now in (20, 29, 31)] == [0, 0, 1]


def test_what_is_gone_is_forgotten():
    heads = SlowHeads(10)
    heads.close([Connection()], 0)
    assert heads.close([], 1) == 0
    assert heads._waiting == {}


@pytest.mark.slow
def test_a_client_that_sends_its_head_byte_by_byte_is_cut_off(monkeypatch):
    monkeypatch.setattr(running, "_HEAD", 2)
    with listening(monkeypatch) as url, httpx.Client() as client:
        host, port = url.removeprefix("http://").split(":")
        head = iter(b"GET /health HTTP/1.1\r\nx-long: " + 200 * b"a")
        with socket.create_connection((host, int(port)), 30) as slow:
            begin = time.monotonic()
            slow.settimeout(0.2)
            while time.monotonic() - begin < 20:
                client.post(f"{url}/v1/predict", content=png())  # one connection, kept alive
                try:
                    slow.send(bytes([next(head)]))
                    if slow.recv(100) == b"":
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break
            assert 1 < time.monotonic() - begin < 15
