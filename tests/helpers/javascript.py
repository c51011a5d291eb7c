"""Runs the scripts of a page in Node.js, for tests that compare them with Python."""

import json
import shutil
import subprocess

import pytest

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="Node.js is not installed (apt-get install nodejs)")


def run_script(folder, files, code, given=None):
    """The value that a script returns.

    Args:
        folder: empty folder to work in.
        files: scripts by name, that `code` may import as "./NAME".
        code: body of an asynchronous function of `given` that returns a JSON value.
        given: JSON value.
    """
    (folder / "package.json").write_text('{"type": "module"}')
    for name, content in files.items():
        (folder / name).write_bytes(content)
    imports, _, body = code.partition("---\n")
    main = f"{imports}\nconst given = {json.dumps(given)};\nconst run = async () => {{ {body} }};\n"
    main += "console.log(JSON.stringify(await run()));"
    (folder / "main.js").write_text(main, encoding="utf-8")
    done = subprocess.run(
        [NODE, "main.js"], check=False, cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
