"""What the commands share: options, exit codes, and how an error ends a command."""

from __future__ import annotations

import ast
import os
from typing import Annotated, Any, NoReturn

import typer

from zsad.errors import ConfigError

WRONG_USAGE, SOME_FAILED, INTERRUPTED, FAILED = 2, 3, 130, 1
DEBUG_VARIABLE = "ZSAD_DEBUG"

MethodOption = Annotated[
    str | None,
    typer.Option(
        "--method", "-m", help="One of `zsad methods`. Default: the checkpoint's, else anomalyclip."
    ),
]
BackboneOption = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        "-b",
        help="One of `zsad backbones`, hf-hub:ORG/REPO, open_clip:ARCH/TAG or a path. Default: tiny.",
    ),
]
DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1 or mps. Default: the fastest one there is.")
]
ImageSizeOption = Annotated[
    int | None,
    typer.Option(min=1, help="Side of the network's input. Default: as the weights were made for."),
]
CheckpointOption = Annotated[
    str | None, typer.Option(help="Learnt weights: a file of zsad or of the method's authors.")
]
ClassNameOption = Annotated[
    str | None, typer.Option("--class-name", "-c", help='What the images show, e.g. "metal nut".')
]
ReferencesOption = Annotated[
    list[str] | None,
    typer.Option("--reference", help="An image, folder or glob of good examples (few-shot). Repeatable."),
]
BatchSizeOption = Annotated[int, typer.Option(min=1, help="Images that are scored at once.")]
PrecisionOption = Annotated[str | None, typer.Option(help="fp32 (default), bf16 or fp16.")]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="A setting of the method, by the paper's term. Repeatable."
    ),
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Never touch the network.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """Turns KEY=VALUE into Python values: numbers, lists, true, false and none are read as such."""
    from zsad.errors import ConfigError

    settings = dict(parse_setting(pair) for pair in pairs)
    if len(settings) < len(pairs):
        raise ConfigError("--set names a setting twice")
    return settings


def comma_list(text: str) -> list[str]:
    """The parts of a comma-separated option; "none" stands for no part."""
    return [part.strip() for part in text.split(",") if part.strip() not in ("", "none")]


def go_offline(wanted: bool) -> None:
    """Switches the network off for this process, the Hugging Face hub included."""
    if wanted:
        os.environ["ZSAD_OFFLINE"] = "1"
        os.environ["HF_HUB_OFFLINE"] = "1"


def fail(error: BaseException | str, code: int) -> NoReturn:
    """Prints one line and leaves."""
    from zsad.errors import ZsadError, one_line

    if os.environ.get(DEBUG_VARIABLE) and isinstance(error, BaseException):
        raise error
    message = error if isinstance(error, str) else one_line(error)
    if isinstance(error, BaseException) and not isinstance(error, ZsadError | OSError):
        message = f"unexpected {type(error).__name__}: {message} ({DEBUG_VARIABLE}=1 shows where)"
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)


_WORDS = {"true": True, "yes": True, "false": False, "no": False, "none": None, "null": None}


def parse_setting(pair: str) -> tuple[str, Any]:
    """Splits KEY=VALUE and reads the value as a number, list, true, false or none; anything else is text.

    Args:
        pair: what was typed; several values separated by commas are a list, with or without brackets.

    Returns:
        The name, with - as _, and the value.

    Raises:
        ConfigError: there is no "=" or no name before it.

    Example:
        >>> parse_setting("features_list=6,12,18,24")
        ('features_list', (6, 12, 18, 24))
        >>> parse_setting("sigma=4"), parse_setting("use-hsf=false"), parse_setting("prompt_set=paper")
        (('sigma', 4), ('use_hsf', False), ('prompt_set', 'paper'))
    """
    name, equals, text = pair.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not name.isidentifier():
        raise ConfigError(f"--set expects KEY=VALUE (as in --set sigma=4), got {pair!r}")
    return name, _value(text.strip())


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
