"""YAML files of users: what they may hold, and one line with file and field for everything else."""

import json
import time

import pytest

from zsad.errors import ConfigError
from zsad.evaluation.reproduction.finding import find_recipe, list_recipes
from zsad.files.yaml_files import read_yaml
from zsad.methods.prompts.state_words import read_state_words

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

REFUSED = {
    "a billion laughs": (LAUGHS, "uses the alias *a: write the value out"),
    "a list that holds itself": ("normal: &a [*a]", "uses the alias *a"),
    "deep brackets": ("normal: " + "[" * 200_000, "nest"),
    "deep dashes": ("normal:\n  " + "- " * 500 + "x", "is nested deeper than 64 levels"),
    "a field twice": ("normal: [a]\nnormal: [b]", "'normal' stands twice, in line 2 again"),
    "a field twice, deeper": ("test: {data: visa, data: mvtec}", "'data' stands twice"),
    "NaN": ("test: {fpr_limit: .nan}", "test.fpr_limit must be a number, got nan"),
    "infinite": ("seeds: [0, -.inf]", "seeds[1] must be a number, got -inf"),
    "a huge number": ("size: 0x" + "f" * 9000, "size must be a number below 1e308, got 0xffff"),
    "too many digits": ("size: " + "9" * 9000, "is not YAML (Exceeds the limit"),
    "a date": (
        "title: 2020-01-02",
        "title must be a text, a number or a list, got datetime.date(2020, 1, 2)",
    ),
    "no date": ("title: 2020-02-31", "is not YAML (day is out of range"),
    "a set": ("normal: !!set {a, b}", "normal must be a text, a number or a list, got {"),
    "bytes": ("normal: !!binary aGVsbG8=", "normal must be a text, a number or a list, got b'hello'"),
    "Python": ("normal: !!python/object/apply:os.system [ls]", "is not YAML (could not determine a constr"),
    "NUL": ('normal: "a\\0b"', "normal must be a text without NUL"),
    "NUL in the file": ("normal: a\0b", "is not YAML ("),
    "half a character": ('normal: ["\\ud800"]', "is not YAML ("),
    "a list for a name": ("? [a, b]\n: c", "is not YAML ("),
    "a number for a name": ("1: 2", "expected names with values, as in 'normal: [new]', got {1: 2}"),
    "a list": ("- a", "expected names with values"),
    "nothing": ("", "expected names with values, as in 'normal: [new]', got None"),
    "two documents": ("a: 1\n---\nb: 2", "is not YAML ("),
    "not UTF-8": (b"normal: [\xff]", "must be a text file in UTF-8"),
    "a megabyte and more": ("a: [" + "x, " * 400_000 + "]", "is larger than 1 MB"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_yaml_can_do_and_no_setting_means_is_refused_in_one_line(tmp_path, name):
    text, message = REFUSED[name]
    path = tmp_path / "words.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    started = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        read_yaml(path, "normal: [new]")
    assert time.monotonic() - started < 5
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 300
    for reader in (read_state_words, lambda file: find_recipe(str(file))):
        with pytest.raises(ConfigError, match="words"):
            reader(path)


def test_missing_files_and_folders(tmp_path):
    for path in (tmp_path, tmp_path / "gone.yaml"):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_yaml(path, "normal: [new]")


def test_what_people_write_is_read(tmp_path):
    path = tmp_path / "words.yaml"
    path.write_text("\ufeffnormal: [new, 'without rust']\nsize: 3\nof: {a: null, b: true, c: 1.5}\n", "utf-8")
    found = read_yaml(path, "normal: [new]")
    assert found == {"normal": ["new", "without rust"], "size": 3, "of": {"a": None, "b": True, "c": 1.5}}


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("train", "epochs", 0, "epochs of train of recipe own must be a whole number at least 1, got 0"),
        ("train", "epochs", "many", "epochs of train of recipe own must be a whole number"),
        ("train", "learning_rate", 0, "learning_rate of train of recipe own must be a number above 0, got 0"),
        ("train", "betas", [0.9], "betas of train of recipe own must be a list of 2"),
        ("train", "mosaic", 2, "mosaic of train of recipe own must be a number at least 0 and at most 1"),
        ("train", "seed", -1, "seed of train of recipe own must be a whole number at least 0, got -1"),
        ("test", "fpr_limit", 0, "fpr_limit of test of recipe own must be a number above 0 and at most 1"),
        ("test", "shots", -1, "shots of test of recipe own must be a whole number at least 0"),
        ("test", "seeds", [0, "x"], "seeds of test of recipe own must be a list"),
        (None, "test", [1], "test of recipe own must be a mapping of names to values, got [1]"),
        (None, "image_size", 0, "image_size of recipe own must be a whole number at least 1, got 0"),
        (None, "settings", 3, "settings of recipe own must be a mapping of names to values, got 3"),
        (None, "assumptions", 3, "assumptions of recipe own must be a list of texts, got 3"),
        (None, "method", ["a"], "method of recipe own must be a text, got ['a']"),
        (None, "extends", ["a"], "`extends` of recipe own must be the name of a base, got ['a']"),
    ],
)
def test_every_field_of_a_recipe_has_a_type_and_bounds(tmp_path, section, field, value, message):
    recipe = {
        "extends": "anomalyclip",
        "title": "own",
        "test": {"data": "visa"},
        "train": {"data": ["mvtec"]},
    }
    (recipe if section is None else recipe[section])[field] = value
    path = tmp_path / "own.yaml"
    path.write_text(json.dumps(recipe))  # JSON is YAML
    with pytest.raises(ConfigError) as caught:
        find_recipe(str(path))
    assert message in str(caught.value)


def test_the_recipes_that_ship_keep_the_bounds():
    assert all(find_recipe(name).name == name for name in list_recipes()[::10])
