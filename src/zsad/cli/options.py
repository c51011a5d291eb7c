"""Options that several commands share, exit codes, and how an error ends a command."""

from __future__ import annotations

import ast
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn, overload

import typer

from zsad.errors import ConfigError, ZsadError, one_line, unknown_name

WRONG_USAGE, SOME_FAILED, INTERRUPTED, FAILED = 2, 3, 130, 1
DEBUG_VARIABLE = "ZSAD_DEBUG"


def known_method(name: str | None) -> str | None:
    """The registry name of a method, refused if unknown; a callback that runs before torch is imported.

    Raises:
        ConfigError: the name is unknown; the message holds the nearest one.
    """
    from zsad.methods._registry import known_name

    return None if name is None else known_name(name)


def known_depth(text: str | None) -> str | None:
    """Refuses a depth that cannot hold for many images; as a callback of an option, before torch is imported.

    Raises:
        ConfigError: the depth is not a whole number from 1 to 16.
    """
    from zsad.images.limits import common_depth

    common_depth(text)
    return text


def known_tile(text: str | None) -> str | None:
    """Refuses a tile setting that is none; as a callback of an option, before torch is imported.

    Raises:
        ConfigError: the setting is neither a number of pixels nor auto nor none.
    """
    from zsad.images.tiles import checked_tile

    checked_tile(text)
    return text


def known_precision(name: str | None) -> str | None:
    """Refuses a precision that does not exist; as a callback of an option, before torch is imported.

    Raises:
        ConfigError: the name is unknown; the message holds the known ones.
    """
    from zsad.backbones.devices import PRECISIONS

    if name is not None and name not in PRECISIONS:
        raise unknown_name("precision", name, PRECISIONS)
    return name


def method_option(default: str) -> Any:
    """The option `--method` of a command, from the words that say what is taken without it."""
    text = f"A name of `zsad methods`. Default: the method of the checkpoint{default}"
    return typer.Option("--method", "-m", callback=known_method, help=text, show_default=False)


MethodOption = Annotated[str | None, method_option(", or anomalyclip without one.")]
BackboneOption = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        "-b",
        help="A name of `zsad backbones`, hf-hub:ORG/REPO, open_clip:ARCH/TAG or a path. Default: tiny.",
    ),
]
DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1 or mps. Default: the fastest device of this machine.")
]
ImageSizeOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Side of the network's input, in pixels. Default: the size that the weights were made for.",
    ),
]
CheckpointOption = Annotated[
    list[str] | None,
    typer.Option(
        "--checkpoint",
        help="Learnt weights: a file written by zsad or by the method's authors. Repeatable for files that "
        "they publish apart.",
    ),
]
ClassNameOption = Annotated[
    str | None, typer.Option("--class-name", "-c", help='Name of what the images show, e.g. "metal nut".')
]
ReferencesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--references",
        help="Image, folder or pattern of known-normal images to compare with. Repeatable.",
    ),
]
AugmentReferencesOption = Annotated[
    bool,
    typer.Option(
        "--augment-references",
        help="Known-normal images also count turned and flipped, in eight ways: for parts that lie in any "
        "direction.",
    ),
]
IncludeResultsOption = Annotated[
    bool,
    typer.Option(
        "--include-results", help="Also take images in folders that zsad wrote itself, and folders of masks."
    ),
]
NormalLabelsOption = Annotated[
    str | None,
    typer.Option(
        "--normal-labels",
        help="Labels or names of class folders, comma-separated, that alone mean normal (pass,A). Default: "
        "good, ok, normal and their like in several languages.",
        show_default=False,
    ),
]
StateWordsOption = Annotated[
    str | None,
    typer.Option(
        help="Defects, comma-separated (cracked,corroded), or a YAML file with lists normal, abnormal, "
        "templates. For methods with hand-written prompts (winclip, clip_ac, april_gan).",
        show_default=False,
    ),
]
BatchSizeOption = Annotated[
    int, typer.Option(min=1, help="Number of images that go through the network at once.")
]
PrecisionOption = Annotated[
    str | None, typer.Option(callback=known_precision, help="fp32 (default), bf16 or fp16.")
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Setting of the method, under the paper's name. Repeatable."
    ),
]
BitsOption = Annotated[
    str | None,
    typer.Option(
        "--bits",
        metavar="N",
        callback=known_depth,
        help="Depth of the values in 16-bit files, such as 12 for a 12-bit camera. Default: what the files "
        "state.",
        show_default=False,
    ),
]
TileOption = Annotated[
    str | None,
    typer.Option(
        "--tile",
        metavar="PIXELS|auto|none",
        callback=known_tile,
        help="Cut larger images into overlapping tiles of this side; auto: only large and long images. "
        "Default: as the checkpoint or calibration was made, else none.",
        show_default=False,
    ),
]
CalibrationOption = Annotated[
    str | None,
    typer.Option(
        help="File written by `zsad calibrate`, or none. Default: the calibration in the checkpoint, if any.",
        show_default=False,
    ),
]
RoiOption = Annotated[
    str | None,
    typer.Option(
        "--roi",
        metavar="MASK|X,Y,W,H",
        help="Look only here: x,y,width,height in pixels or shares of the image (10%,10%,80%,80%), or a mask "
        "that is white where to look.",
        show_default=False,
    ),
]
DevicesOption = Annotated[
    int, typer.Option(min=1, help="Number of GPUs, or of CPU processes, that share the work.")
]
LimitOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Maximum number of test images per category, evenly spread, of both labels from 2 on."
    ),
]
OutFolderOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Never use the network.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]


def method_settings(pairs: list[str] | None, state_words: str | None = None) -> dict[str, Any]:
    """The settings of a method from --set and --state-words.

    Args:
        pairs: KEY=VALUE texts, as `parse_setting` reads them.
        state_words: words or a YAML file, as `zsad.methods.prompts.state_words` reads them.

    Returns:
        Values by the name of the setting.

    Raises:
        ConfigError: a text is not KEY=VALUE, or a setting is given twice.
    """
    given = pairs or []
    settings = dict(parse_setting(pair) for pair in given)
    if len(settings) < len(given):
        raise ConfigError("--set names a setting twice")
    if state_words is not None:
        from zsad.methods.prompts.state_words import parse_state_words

        settings["state_words"] = parse_state_words(state_words)
    return settings


CsvDelimiterOption = Annotated[
    str,
    typer.Option(
        "--csv-delimiter",
        help="What separates the cells of CSV files: comma, semicolon (Excel in many languages), | or tab.",
    ),
]


@overload
def comma_list(text: str) -> tuple[str, ...]: ...


@overload
def comma_list(text: str | None) -> tuple[str, ...] | None: ...


def comma_list(text: str | None) -> tuple[str, ...] | None:
    """The parts of a comma-separated option; "none" stands for no part. None if the option is not given."""
    if text is None:
        return None
    return tuple(part.strip() for part in text.split(",") if part.strip() not in ("", "none"))


def checkpoint_given(paths: list[str] | None) -> str | tuple[str, ...] | None:
    """The value of --checkpoint as `zsad.load` takes it."""
    if not paths:
        return None
    return paths[0] if len(paths) == 1 else tuple(paths)


def typed_words() -> list[str]:
    """The words of the command line as they were typed, beginning with "zsad"."""
    return ["zsad", *sys.argv[1:]]


def typed_command() -> str:
    """The command line as it was typed, quoted for a shell."""
    return shlex.join(typed_words())


def go_offline(wanted: bool) -> None:
    """Switches the network off for this process, the Hugging Face hub included."""
    if wanted:
        os.environ["ZSAD_OFFLINE"] = "1"
        os.environ["HF_HUB_OFFLINE"] = "1"


def fail(error: BaseException | str, code: int) -> NoReturn:
    """Prints an error as one line and ends the command with an exit code."""
    if os.environ.get(DEBUG_VARIABLE) and isinstance(error, BaseException):
        raise error
    message = error if isinstance(error, str) else one_line(error)
    if isinstance(error, BaseException) and not isinstance(error, ZsadError | OSError):
        message = f"unexpected {type(error).__name__}: {message} ({DEBUG_VARIABLE}=1 shows where)"
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)


def fail_interrupted(kept: str) -> NoReturn:
    """Ends a command after Ctrl-C and names the command that continues it.

    Args:
        kept: what is on disk, as in "finished results are in RUN".
    """
    words = [word for word in typed_words() if word not in ("--resume", "--overwrite")]
    fail(f"interrupted: {kept}; continue with: {shlex.join([*words, '--resume'])}", INTERRUPTED)


_WORDS = {"true": True, "yes": True, "false": False, "no": False, "none": None, "null": None}


def parse_setting(pair: str) -> tuple[str, Any]:
    """Splits KEY=VALUE and reads the value as a number, list, true, false or none; anything else stays text.

    Args:
        pair: text of the option; values separated by commas are a list, with or without brackets.

    Returns:
        The name, with each - replaced by _, and the value.

    Raises:
        ConfigError: the text has no "=" or no name before it.

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
