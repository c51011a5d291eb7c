"""A dataclass of options: its fields are options of the command, and the command gets it filled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from zsad.cli.detectors import ComparingOptions
from zsad.cli.groups import with_groups
from zsad.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class WithOwnWords(ComparingOptions):
    bits: Annotated[str | None, typer.Option(help="Own words.")] = None


@pytest.fixture
def run():
    """Runs a command that takes two of the options besides one of its own; `run.got`: what it got."""
    app, got = typer.Typer(), []

    @app.command()
    @with_groups
    def command(name: str, *, wanted: WithOwnWords, loud: bool = False) -> None:
        got.append((name, wanted, loud))

    def invoke(*arguments):
        return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})

    invoke.got = got
    return invoke


def test_fields_are_options_and_arrive_together(run):
    result = run("a", "--roi", "1,2,3,4", "--set", "sigma=4", "--references", "good", "--loud")
    assert result.exit_code == 0, result.output
    ((name, wanted, loud),) = run.got
    assert (name, loud, wanted.roi, wanted.backbone) == ("a", True, "1,2,3,4", None)
    arguments = wanted.arguments()
    assert arguments["sigma"] == 4
    assert list(arguments["references"]) == ["good"]
    assert "settings" not in arguments


def test_callbacks_still_refuse_and_a_subclass_words_an_option_anew(run):
    refused = run("a", "--tile", "never")
    assert refused.exit_code != 0
    assert not run.got
    shown = run("--help").output
    assert "Own words." in shown
    assert "16-bit files" not in shown


def test_an_option_is_no_setting():
    with pytest.raises(ConfigError, match="--set image_size is no setting of a method: give --image-size"):
        ComparingOptions(settings=["image-size=64"]).arguments()
