"""Plain values of dataclasses: what is written is what is read, and what does not fit is refused by field."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from zsad.errors import ConfigError, DataError
from zsad.files.fields import Above, AtLeast, AtMost, Undefinable, check_bounds
from zsad.files.json_text import parse_json, parse_object, read_json
from zsad.files.plain import from_plain, to_plain
from zsad.files.settings import build_config

Share = Annotated[float, AtLeast(0), AtMost(1)]


@dataclass(frozen=True)
class Row:
    name: str
    score: float
    area: Undefinable = math.nan
    share: Share | None = None


@dataclass(frozen=True)
class Table:
    kind: Literal["rate", "f1"]
    rows: tuple[Row, ...]
    size: Annotated[int, Above(0)] = 8
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    metrics: Mapping[str, Undefinable] = field(default_factory=dict)
    best: Row | None = None
    is_exact: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)


GOOD = {"kind": "f1", "rows": [{"name": "a", "score": 1}]}


def test_round_trip():
    table = Table(
        "rate",
        (Row("a", 0.5, area=2.0, share=1.0), Row("caf\udce9.png", 1e-300, area=0.0)),
        mean=(0.1, 0.2, 0.3),
        metrics={"auroc": 0.25},
        best=Row("b", -1.0, area=1.0),
        is_exact=False,
        extra={"deep": [1, "x", None, {"y": True}]},
    )
    text = json.dumps(to_plain(table), allow_nan=False)
    assert from_plain(Table, json.loads(text), "a.json") == table


def test_an_undefined_number_is_null_in_the_file():
    plain = to_plain(Table("f1", (Row("a", 0.0),), metrics={"auroc": math.nan}))
    assert plain["rows"][0]["area"] is None
    found = from_plain(Table, plain, "a.json")
    assert math.isnan(found.rows[0].area)
    assert math.isnan(found.metrics["auroc"])


def test_defaults_and_conversions():
    table = from_plain(Table, GOOD, "a.json")
    assert table.rows[0] == Row("a", 1.0, area=table.rows[0].area)
    assert isinstance(table.rows[0].score, float)
    assert from_plain(Table, {**GOOD, "rows": []}, "a.json").rows == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "guess"}, "kind must be 'rate' or 'f1', got 'guess'"),
        ({"colour": 1}, "colour is unknown; known fields: kind, rows, size"),
        ({"size": 0}, "size must be a whole number above 0, got 0"),
        ({"size": 8.0}, "size must be a whole number above 0, got 8.0"),
        ({"size": True}, "size must be a whole number above 0, got True"),
        ({"is_exact": 1}, "is_exact must be True or False, got 1"),
        ({"mean": [0, 0]}, "mean must be a list of 3 numbers, got [0, 0]"),
        ({"mean": [0, 0, math.inf]}, "mean[2] must be a number, got inf"),
        ({"metrics": {"auroc": "high"}}, "metrics.auroc must be a number, got 'high'"),
        ({"metrics": [1]}, "metrics must be a mapping of names to values, got [1]"),
        ({"rows": {}}, "rows must be a list of"),
        ({"rows": [{"name": "a"}]}, "rows[0].score is missing"),
        (
            {"rows": [{"name": "a", "score": 1}, {"name": 3, "score": 1}]},
            "rows[1].name must be a text, got 3",
        ),
        ({"rows": [{"name": "a", "score": math.nan}]}, "rows[0].score must be a number, got nan"),
        ({"rows": [{"name": "a", "score": None}]}, "rows[0].score must be a number, got None"),
        ({"rows": [{"name": "a", "score": 10**400}]}, "rows[0].score must be a number, got 1000"),
        (
            {"best": {"name": "a", "score": 1, "share": 2}},
            "best.share must be a number at least 0 and at most 1",
        ),
        ({"best": 3}, "best must be a mapping with some of name, score, area, share or None, got 3"),
    ],
)
def test_what_does_not_fit_is_named_with_file_and_field(change, message):
    with pytest.raises(DataError) as caught:
        from_plain(Table, {**GOOD, **change}, "a.json")
    assert str(caught.value).startswith(f"a.json: {message}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("content", [None, [], "text", 3])
def test_anything_but_an_object_is_refused(content):
    with pytest.raises(DataError, match=r"^a\.json: expected a JSON object, got "):
        from_plain(Table, content, "a.json")


def test_a_check_of_the_class_names_the_file_too():
    @dataclass(frozen=True)
    class Positive:
        size: Annotated[int, Above(0)]

        def __post_init__(self):
            check_bounds(self)
            if self.size == 13:
                raise ConfigError("13 is no size")

    with pytest.raises(DataError, match=r"^a\.json: 13 is no size$"):
        from_plain(Positive, {"size": 13}, "a.json")


@dataclass(frozen=True)
class Config:
    sigma: Annotated[float, AtLeast(0)] = 4.0
    scales: tuple[int, ...] | None = None
    share: Share | None = None

    def __post_init__(self):
        check_bounds(self)


def test_settings_and_files_are_checked_alike():
    assert build_config(Config, {"sigma": 0, "scales": [2]}, "demo") == Config(0.0, (2,))
    assert from_plain(Config, {"sigma": 0, "scales": [2]}, "a.json") == Config(0.0, (2,))
    for value in (-1, math.nan, math.inf, "4", None):
        with pytest.raises(ConfigError, match="sigma of demo must be a number at least 0, got"):
            build_config(Config, {"sigma": value}, "demo")
        with pytest.raises(DataError, match=r"a\.json: sigma must be a number at least 0, got"):
            from_plain(Config, {"sigma": value}, "a.json")
    with pytest.raises(ConfigError, match="scales of demo must be a list of whole numbers or None, got"):
        build_config(Config, {"scales": []}, "demo")


def test_bounds_hold_in_python_too():
    with pytest.raises(ConfigError, match=r"^sigma must be at least 0, got -1$"):
        Config(sigma=-1)
    with pytest.raises(ConfigError, match=r"^share must be at most 1, got 1\.5$"):
        Config(share=1.5)
    with pytest.raises(ConfigError, match="sigma must be at least 0, got nan"):
        dataclasses.replace(Config(), sigma=math.nan)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"rate": NaN}', "rate must be a number, got nan"),
        ('{"rate": -Infinity}', "rate must be a number, got -inf"),
        ('{"runs": [{"rate": 1e999}]}', "runs[0].rate must be a number, got inf"),
        (r'{"name": "a\u0000b"}', r"name must be a text without NUL and broken characters, got 'a\x00b'"),
        (r'{"name": "\ud800"}', r"name must be a text without NUL and broken characters, got '\ud800'"),
        (r'{"a\u0000": 1}', "a name in the file must be a text without NUL"),
        ('{"a": ' * 100 + "1" + "}" * 100, "is nested deeper than 64 levels"),
        ('{"a": ' + "[" * 200_000, "is nested deeper than 64 levels"),
        ('{"a": ' + "9" * 5000 + "}", "is not JSON (Exceeds the limit"),
        (b'{"a": "\xff"}', "is not JSON ("),
        ("", "is not JSON ("),
        ("[1, 2]", "expected a JSON object, got list"),
    ],
)
def test_json_that_anybody_wrote_is_refused_by_file_and_field(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    for read in (lambda: parse_object(text, str(path)), lambda: read_json(path)):
        with pytest.raises(DataError) as caught:
            read()
        assert message in str(caught.value)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


def test_file_names_that_are_not_unicode_can_be_read():
    assert parse_json(r'["caf\udce9.png"]', "a.json") == ["caf\udce9.png"]


def test_free_values_are_checked_too():
    with pytest.raises(DataError, match=r"^a\.json: extra\.deep\[1\] must be a number, got inf"):
        from_plain(Table, {**GOOD, "extra": {"deep": [0, math.inf]}}, "a.json")
    with pytest.raises(DataError, match=r"^a\.json: rows\[0\]\.name must be a text without NUL"):
        from_plain(Table, {**GOOD, "rows": [{"name": "\0", "score": 1}]}, "a.json")


def test_a_list_that_is_named_many_times_is_looked_at_once():
    layer = [1.0]
    for _ in range(40):
        layer = [layer, layer]
    assert from_plain(Table, {**GOOD, "extra": {"laughs": layer}}, "a.json").extra["laughs"] is layer


def test_a_json_file_of_a_gigabyte_is_not_read(tmp_path):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.write(b"{}")
        file.truncate(1_000_000_000)  # takes no room on the disk
    with pytest.raises(DataError, match="has 1000 MB, and no JSON of zsad or of weights has 100"):
        read_json(path)


def test_a_field_that_stands_twice_is_refused():
    with pytest.raises(DataError, match=r"^a\.json: 'rate' stands twice in one object$"):
        parse_json('{"rate": 0.1, "rate": 0.9}', "a.json")


@dataclass(frozen=True)
class Asking:
    source: str | Path | Callable[[str], str] | None = None


@pytest.mark.parametrize("source", ["words", str.upper, None])
def test_settings_may_be_texts_and_functions(source):
    assert build_config(Asking, {"source": source}, "demo").source == source


def test_a_path_is_a_text_where_a_setting_takes_both():
    assert build_config(Asking, {"source": Path("words.yaml")}, "demo").source == "words.yaml"


def test_settings_that_are_neither_are_refused():
    with pytest.raises(
        ConfigError, match="source of demo must be a text or a path or a function or None, got 3"
    ):
        build_config(Asking, {"source": 3}, "demo")
