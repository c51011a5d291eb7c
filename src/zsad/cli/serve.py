"""`zsad serve`: an HTTP API over a detector or over exported bundles."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zsad.cli.bundles import ProvidersOption, ThreadsOption, check_no_engine, load_bundle
from zsad.cli.detectors import ComparingOptions, load_detector
from zsad.cli.groups import with_groups
from zsad.cli.options import (
    CalibrationOption,
    ClassNameOption,
    OfflineOption,
    PrecisionOption,
    QuietOption,
    go_offline,
)
from zsad.errors import ConfigError

if TYPE_CHECKING:
    from zsad.detector.detector import Detector

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@with_groups
def serve(
    *,
    bundle: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]DIR",
            help="Folder that `zsad export` wrote. Repeatable with names; the first one is the default.",
            show_default=False,
        ),
    ] = None,
    threads: ThreadsOption = None,
    providers: ProvidersOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all, which needs a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0: a free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="ZSAD_SERVE_TOKEN",
            help="Clients have to send Authorization: Bearer TOKEN. The variable hides it from ps.",
            show_default=False,
        ),
    ] = None,
    allow_fit: Annotated[
        bool, typer.Option("--allow-fit", help="Clients may give good images: POST /v1/fit, /v1/references.")
    ] = False,
    keep: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep uploaded images and results here. Default: keep nothing."),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN", help="Origin of pages that may ask (https://line.example). Repeatable."
        ),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Private key, PEM.")] = None,
    max_body: Annotated[
        str, typer.Option(metavar="SIZE", help="Largest request, such as 20MB. Larger: 413.")
    ] = "128MiB",
    max_images: Annotated[int, typer.Option(min=1, help="Most images in a request. More: 413.")] = 64,
    max_pixels: Annotated[
        int | None,
        typer.Option(min=1, help="Most pixels of an image. More: 413. Default: as `zsad predict`."),
    ] = None,
    max_queue: Annotated[
        int, typer.Option(min=1, help="Most images accepted and not answered. More: 429.")
    ] = 256,
    timeout: Annotated[float, typer.Option(help="Seconds to receive and to score a request.")] = 60.0,
    max_batch: Annotated[
        int | None,
        typer.Option(min=1, help="Most images scored at once. Default: by the size of the network's input."),
    ] = None,
    wanted: ComparingOptions,
    precision: PrecisionOption = None,
    calibration: CalibrationOption = None,
    class_name: ClassNameOption = None,
    offline: OfflineOption = False,
    quiet: QuietOption = False,
) -> None:
    """Answer images over HTTP with scores, verdicts and heat maps, until Ctrl-C.

    Serves a detector (--checkpoint line3.safetensors) or bundles of `zsad export` (--bundle line3-onnx).
    """
    arguments = {
        **wanted.arguments(),
        "augment_references": wanted.augment_references or None,
        "precision": precision,
        "calibration": calibration,
    }
    go_offline(offline)
    given = {name: value for name, value in arguments.items() if value is not None}
    models: Any
    if bundle:
        check_alone([*given, *(["class_name"] if class_name else [])])
        models = {
            name: partial(load_bundle, Path(folder), threads, providers, quiet=True)
            for name, folder in named_bundles(bundle).items()
        }
    else:
        check_no_engine(threads, providers)
        models = {"default": _loader(class_name, given)}
    options = {
        "token": token,
        "allow_fit": allow_fit,
        "keep": keep,
        "cors": cors,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "max_body": bytes_of(max_body, "--max-body"),
        "max_images": max_images,
        "max_pixels": max_pixels,
        "max_queue": max_queue,
        "timeout": timeout,
        "max_batch": max_batch,
    }
    _serve(models, host, port, {name: value for name, value in options.items() if value is not None}, quiet)


def _serve(models: Any, host: str, port: int, options: dict[str, Any], quiet: bool) -> None:
    from zsad.cli.printing import stderr
    from zsad.deploy.server.serving import check_packages, serve

    check_packages()
    if not quiet:
        from zsad.deploy.server.logs import write_logs

        write_logs()

    def say(url: str) -> None:
        stderr(quiet).print(f"Serving at {url} (Ctrl-C stops)", markup=False, soft_wrap=True)

    serve(models, host, port, on_start=say, **options)


def _loader(class_name: str | None, arguments: dict[str, Any]) -> Callable[[], Detector]:
    """A function that loads the detector, while the server already says that it lives."""

    def load() -> Detector:
        from dataclasses import replace

        detector = load_detector(quiet=True, **{"references": None, **arguments})
        if class_name is None:
            return detector
        decision = detector.deciding(class_name, None, None).decision
        return detector.with_decision(replace(decision, class_name=class_name))

    return load


def check_alone(names: Sequence[str]) -> None:
    """Refuses options of a detector beside a bundle, in which they are fixed.

    Raises:
        ConfigError: there are such options.
    """
    if names:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in names)
        raise ConfigError(
            f"a bundle is finished, and {options} would change its detector: give {options} to `zsad export` "
            "or leave out --bundle"
        )


def named_bundles(texts: Sequence[str]) -> dict[str, str]:
    """Folders of bundles by the names that requests give.

    Args:
        texts: NAME=DIR, or DIR, whose last part is then the name.

    Raises:
        ConfigError: a name occurs twice, or a text has no folder.

    Example:
        >>> named_bundles(["left=bundles/line3", "bundles/line4/"])
        {'left': 'bundles/line3', 'line4': 'bundles/line4/'}
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not equals or Path(text).exists():
            name, folder = Path(text).resolve().name, text
        if not name or not folder:
            raise ConfigError(f"--bundle takes NAME=DIR or DIR, got {text!r}")
        if name in found:
            raise ConfigError(f"two bundles are called {name!r}: name them, as in --bundle left={folder}")
        found[name] = folder
    return found


def bytes_of(text: str, option: str) -> int:
    """Number of bytes that a text such as "20MB", "64MiB" or "1000000" means.

    Raises:
        ConfigError: the text is no size.

    Example:
        >>> bytes_of("20MB", "--max-body"), bytes_of("1.5 GiB", "--max-body")
        (20000000, 1610612736)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?i?b?)", text.strip().lower())
    if match is None or match[2] not in _UNITS or (size := int(float(match[1]) * _UNITS[match[2]])) < 1:
        raise ConfigError(f"{option} takes a size, such as 20MB or 64MiB, got {text!r}")
    return size
