"""A small server with the wire form of `zsad serve`, whose scores a test can foretell.

The score of an image is its mean red level, and its map the red levels. Fitting puts the threshold just above
the highest score.
"""

import base64
import contextlib
import io
import json
import tempfile
import threading
import time
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

from zsad.deploy.web.page import SERVER_POLICY, page_files
from zsad.files.pages import PAGE_FILE
from zsad.images.saving import write_file

KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


class Behaviour:
    """What the server does: `token` it wants, `busy` times it answers 429, `seconds` an image takes."""

    def __init__(self, **changes):
        self.token, self.busy, self.seconds, self.cannot_fit = None, 0, 0.0, None
        self.names = ["default"]
        self.normal_scores, self.threshold = [], None
        self.predicted = []
        self.__dict__.update(changes)

    def models(self):
        known = {
            "method": "red",
            "backbone": "none",
            "class_name": None,
            "references": len(self.normal_scores),
            "threshold": self.threshold,
            "map_range": [0, 1],
            "normal_scores": self.normal_scores,
            "left_out": int(bool(self.normal_scores)),
            "confidence": 0.95,
            "cannot_fit": self.cannot_fit,
        }
        return {"models": [{"name": name, **known} for name in self.names]}

    def predict(self, name, content, wishes):
        try:
            image = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        except OSError:
            return dict.fromkeys(("score", "threshold", "width", "height"), None) | {
                "name": name,
                "error": "is not an image",
            }
        time.sleep(self.seconds)
        red = image[..., 0].astype(np.float32) / 255
        row = {"name": name, "score": float(red.mean()), "threshold": self.threshold, "error": None}
        row |= {"width": image.shape[1], "height": image.shape[0], "seconds": 0.01}
        if "map" in wishes:
            with tempfile.TemporaryDirectory() as folder:
                path = write_file("map", Path(folder) / "map.png", image, red, (0.0, 1.0))
                row["map"] = base64.b64encode(path.read_bytes()).decode()
        if "overlay" in wishes:
            stream = io.BytesIO()
            Image.fromarray(image).save(stream, "PNG")
            row["overlay"] = base64.b64encode(stream.getvalue()).decode()
        return row

    def fit(self, files):
        self.normal_scores = sorted(self.predict(name, content, ())["score"] for name, content in files)
        self.threshold = self.normal_scores[-1] + 0.01
        return {"images": [{"name": name} for name, _ in files], "warnings": [], "failed": [], "outliers": []}


@contextlib.contextmanager
def page_server(behaviour):
    """The address of a running server."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, status, content, kind="application/json", **headers):
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": len(body), **headers}.items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

        def is_allowed(self):
            return behaviour.token in (None, (self.headers["Authorization"] or "").removeprefix("Bearer "))

        def do_GET(self):
            path = urlsplit(self.path).path.lstrip("/") or PAGE_FILE
            if path in (files := page_files()):
                self.answer(200, files[path], KINDS[Path(path).suffix], Content_Security_Policy=SERVER_POLICY)
            elif path == "v1/models":
                allowed = self.is_allowed()
                self.answer(200 if allowed else 401, behaviour.models() if allowed else {"error": "token"})
            else:
                self.answer(404, {"error": f"there is no {path}"})

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if not self.is_allowed():
                return self.answer(401, {"error": "token"})
            if behaviour.busy:
                behaviour.busy -= 1
                return self.answer(429, {"error": "too much at once"}, Retry_After=1)
            address = urlsplit(self.path)
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            parts = list(BytesParser(policy=HTTP).parsebytes(head + body).iter_parts())
            found = [(part.get_filename(), part.get_payload(decode=True)) for part in parts]
            if address.path == "/v1/fit":
                return self.answer(200, behaviour.fit([each for each in found if each[0] is not None]))
            behaviour.predicted += [name for name, _ in found]
            rows = [behaviour.predict(name, content, parse_qs(address.query)) for name, content in found]
            failed = all(row["error"] for row in rows)
            return self.answer(422 if failed else 200, {"results": rows, "error": rows[0]["error"]})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
