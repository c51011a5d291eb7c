"""The steps of the Dockerfile in a bare environment: a home of its own, few variables, no torch."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-for-the-test"


def stages():
    """The text of the Dockerfile's two stages."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return re.split(r"^FROM .*$", text, flags=re.MULTILINE)[1:]


def instructions(stage, name):
    return re.findall(rf"^{name} (.*)$", stage, re.MULTILINE)


@dataclass
class Bare:
    """An environment: its home and the variables of its processes."""

    home: Path
    variables: dict[str, str]

    def run(self, *command, here=None):
        """Runs a command in the home, or in another folder."""
        return subprocess.run(
            command,
            cwd=here or self.home,
            env=self.variables,
            capture_output=True,
            text=True,
            check=False,
        )

    @contextlib.contextmanager
    def served(self, bundle):
        """What the container starts, for a bundle, until it is ready; gives `ask(image file)` -> its row."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        _, final = stages()
        words = json.loads(instructions(final, "ENTRYPOINT")[0]) + json.loads(instructions(final, "CMD")[0])
        changed = {"/bundle": str(bundle), "0.0.0.0": "127.0.0.1", "8000": port}
        probe = json.loads(re.search(r"HEALTHCHECK .*?CMD (\[.*\])", final)[1])
        log = self.home / "server.log"
        with log.open("wb") as output:
            server = subprocess.Popen(
                [changed.get(word, word) for word in words],
                cwd=self.home,
                env={**self.variables, "ZSAD_SERVE_TOKEN": TOKEN},
                stdout=output,
                stderr=output,
            )
        try:
            deadline = time.monotonic() + 60
            while not answers(f"http://127.0.0.1:{port}/ready") and time.monotonic() < deadline:
                assert server.poll() is None, log.read_text()
                time.sleep(0.1)
            assert self.run(*[word.replace("8000", port) for word in probe]).returncode == 0

            def ask(image):
                request = urllib.request.Request(
                    f"http://127.0.0.1:{port}/v1/predict",
                    data=Path(image).read_bytes(),
                    headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "image/png"},
                )
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.load(answer)["results"][0]

            yield ask
        finally:
            server.terminate()
            assert server.wait(30) == 0, log.read_text()


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:  # nobody listens, or not ready yet
        return False


def make_bare(home):
    """Runs the steps of the Dockerfile's first stage on the sources that .dockerignore lets through."""
    build, _ = stages()
    sources = home / "source"
    sources.mkdir()
    for copied in instructions(build, "COPY"):
        *given, target = copied.split()
        for source in (ROOT / name for name in given):
            if source.is_file():
                shutil.copy(source, sources / target)
            else:
                leave_out = shutil.ignore_patterns("tiny", "__pycache__")
                shutil.copytree(source, sources / target, ignore=leave_out)
    (home / "bin").mkdir()
    (home / "bin" / "python").symlink_to(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")
    settings = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    own = {"HOME": str(home), "PATH": f"{home}/bin:/usr/bin:/bin", "ENGINE": "cpu"}
    bare = Bare(home, {**settings, **own})
    for step in instructions(build, "RUN"):
        here = step.replace("/opt/zsad", str(home / "zsad"))
        done = bare.run("/bin/sh", "-ec", here, here=sources)
        assert done.returncode == 0, f"{here}\n{done.stdout}\n{done.stderr}"
    shutil.rmtree(sources)
    bare.variables["PATH"] = f"{home}/zsad/bin:/usr/bin:/bin"
    return bare
