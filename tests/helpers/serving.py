"""A model without a network, and a server around it, for the tests of serving."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from helpers.image_bytes import encode
from zsad.deploy.server import running
from zsad.deploy.server.app import create_app
from zsad.deploy.server.models import Models
from zsad.deploy.server.options import ServeOptions
from zsad.deploy.server.service import Service
from zsad.types import Prediction

THRESHOLD = 0.5
LOCAL = "http://127.0.0.1"


class Brightness:
    """Scores an image by its mean brightness; the map is the brightness of each pixel."""

    threshold = THRESHOLD

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.batches: list[int] = []

    def predict(self, inputs):
        self.batches.append(len(inputs))
        time.sleep(self.seconds)
        return [brightness(image) for image in inputs]


class Held(Brightness):
    """Scores nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def predict(self, inputs):
        if inputs[0].size != (64, 64):  # the first look at a grey image
            assert self.go.wait(20)
        return super().predict(inputs)


def brightness(image: Image.Image) -> Prediction:
    pixels = np.asarray(image)
    values = pixels.mean(axis=2, dtype=np.float32) / 255
    return Prediction(float(values.mean()), values, pixels, threshold=THRESHOLD, map_threshold=THRESHOLD)


def png(level: int = 200, width: int = 6, height: int = 4) -> bytes:
    """A grey PNG."""
    return encode(Image.new("RGB", (width, height), (level, level, level)), "PNG")


def noise_png(seed: int = 0, side: int = 64) -> bytes:
    """A PNG that does not compress, so that cutting it anywhere loses pixels."""
    levels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return encode(Image.fromarray(levels), "PNG")


def service_of(*models, **options) -> Service:
    """A service over models, which are called "default", "second" and "third"."""
    names = ("default", "second", "third")
    chosen = ServeOptions(**options)
    sources = dict(zip(names, models or (Brightness(),), strict=False))
    return Service(Models(sources, chosen.max_batch), chosen)


@contextmanager
def listening(monkeypatch, *models, **options):
    """The address of a server in a thread, which listens at a free port."""
    servers, urls = [], []
    made = running._Server.__init__

    def kept(self, *arguments):
        made(self, *arguments)
        servers.append(self)

    monkeypatch.setattr(running._Server, "__init__", kept)
    service = service_of(*models, port=0, **options)
    thread = threading.Thread(target=running.run, args=(service.models, service.options, urls.append))
    thread.start()
    try:
        while not urls:
            assert thread.is_alive()
            time.sleep(0.02)
        yield urls[0]
    finally:
        servers[0].should_exit = True
        thread.join()


@contextmanager
def client_of(service: Service, **options):
    """A client of a running application; errors of the server become answers, as they do outside."""
    application = create_app(service)
    with TestClient(application, base_url=LOCAL, raise_server_exceptions=False, **options) as client:
        yield client
