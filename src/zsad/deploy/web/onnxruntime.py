"""The files of onnxruntime-web, which runs graphs inside a browser; from its npm package.

The package is downloaded once from the npm registry into zsad's cache and verified, or taken from a folder
that npm has installed. zsad does not ship it.
"""

from __future__ import annotations

import base64
import hashlib
import tarfile
from pathlib import Path

from zsad.errors import ConfigError, WeightsError, printable
from zsad.files.download import download

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
URL = f"https://registry.npmjs.org/{PACKAGE}/-/{PACKAGE}-{VERSION}.tgz"
BYTES = 33_106_585
SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""SHA-512 in base64, as `npm view onnxruntime-web@1.30.0 dist.integrity` prints it."""

FILES = {
    "ort.wasm.min.mjs": "ort.js",
    "ort-wasm-simd-threaded.mjs": "program.js",
    "ort-wasm-simd-threaded.wasm": "program.wasm",
}
"""Files of the package, and their names beside the page: the interface, and the program that runs on the
processor, with or without threads. Not every file server says of ".mjs" that it is a script."""

LICENCE = f"{PACKAGE}: MIT, https://github.com/microsoft/onnxruntime"


def runtime_files(folder: str | Path | None = None, *, offline: bool | None = None) -> dict[str, bytes]:
    """The files that a page needs to run graphs.

    Args:
        folder: folder of the package, such as node_modules/onnxruntime-web; None downloads it.
        offline: whether network access is forbidden; None follows the environment.

    Returns:
        Contents by the names that `FILES` gives them.

    Raises:
        ConfigError: the folder does not hold the files.
        WeightsError: the package cannot be downloaded, or is not the published one.
    """
    if folder is not None:
        return _from_folder(Path(folder).expanduser())
    try:
        package = download(URL, SHA256, BYTES, offline=offline)
    except WeightsError as error:
        raise WeightsError(
            f"{error}; or run npm install {PACKAGE}@{VERSION} and give "
            f"--onnxruntime-web node_modules/{PACKAGE}"
        ) from error
    return _from_package(package)


def _from_folder(folder: Path) -> dict[str, bytes]:
    dist = folder / "dist" if (folder / "dist").is_dir() else folder
    missing = [name for name in FILES if not (dist / name).is_file()]
    if missing:
        raise ConfigError(
            f"{printable(folder)} holds no {missing[0]}: run npm install {PACKAGE}@{VERSION} and give "
            f"the folder node_modules/{PACKAGE}"
        )
    return {name: (dist / source).read_bytes() for source, name in FILES.items()}


def _from_package(package: Path) -> dict[str, bytes]:
    content = package.read_bytes()
    found = base64.b64encode(hashlib.sha512(content).digest()).decode()
    if found != INTEGRITY:
        raise WeightsError(
            f"{printable(package)} is not {PACKAGE} {VERSION}: SHA-512 {found} instead of {INTEGRITY}"
        )
    with tarfile.open(package) as archive:
        # Members are read, never unpacked, so that no name in the archive leads anywhere.
        members = {name: archive.extractfile(f"package/dist/{source}") for source, name in FILES.items()}
        return {name: member.read() for name, member in members.items() if member is not None}
