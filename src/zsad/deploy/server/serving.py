"""`serve`: from a detector, a bundle or several of them to a running server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad.deploy.server.options import ServeOptions
from zsad.errors import ConfigError, MissingExtraError
from zsad.files.settings import build_config

if TYPE_CHECKING:
    from zsad.deploy.server.models import Predictor, Source

DEFAULT_MODEL = "default"


def serve(
    model: Predictor | str | Path | Mapping[str, Source | str | Path],
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    on_start: Callable[[str], None] | None = None,
    **options: Any,
) -> None:
    """Serves an HTTP API until SIGTERM or Ctrl-C, and then answers what it has accepted.

    Args:
        model: a detector, an exported bundle or its folder, or several of them by name, of which the first
            is the default.
        host: address to listen on; one that other machines reach needs a token.
        port: port to listen on; 0 takes a free one.
        on_start: called with the server's address when it listens.
        **options: other fields of `zsad.deploy.ServeOptions`, such as `token` and `allow_fit`.

    Raises:
        ConfigError: an option is unknown or impossible, the address cannot be listened on, or a model cannot
            score an image by itself.
        MissingExtraError: the packages of `pip install "zsad[serve]"` are missing.
        ZsadError: a model cannot be loaded.

    Example:
        zsad.serve(zsad.load(checkpoint="line3.safetensors"), port=8000, allow_fit=True)
    """
    chosen = build_config(ServeOptions, {"host": host, "port": port, **options}, "serve")
    check_packages()
    from zsad.deploy.server.models import Models
    from zsad.deploy.server.running import run

    named = model if isinstance(model, Mapping) else {DEFAULT_MODEL: model}
    sources = {str(name): _source(each) for name, each in named.items()}
    run(Models(sources, chosen.max_batch), chosen, on_start)


def check_packages() -> None:
    """Refuses to go on without the packages of a server.

    Raises:
        MissingExtraError: one is missing.
    """
    for package, module in (
        ("fastapi", "fastapi"),
        ("uvicorn", "uvicorn"),
        ("python-multipart", "python_multipart"),
        ("prometheus-client", "prometheus_client"),
    ):
        try:
            __import__(module)
        except ImportError as error:
            raise MissingExtraError(package, "serve", "zsad serve") from error


def _source(model: Any) -> Source:
    """A model, or a function that loads the bundle of a folder."""
    if isinstance(model, str | Path):
        return lambda: _bundle(model)
    if hasattr(model, "predict") or callable(model):
        return model  # type: ignore[no-any-return]
    raise ConfigError(
        f"serve takes a detector (zsad.load), a bundle (zsad.load_exported) or a bundle's folder, got "
        f"{type(model).__name__}"
    )


def _bundle(folder: str | Path) -> Predictor:
    from zsad.deploy.runtime import load_exported

    return load_exported(folder)
