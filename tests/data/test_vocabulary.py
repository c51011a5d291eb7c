"""Words for normal and anomalous, in folders and lists, in several languages; nothing is guessed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from zsad.data.folder import open_dataset
from zsad.data.vocabulary import meaning
from zsad.errors import DataError

NORMAL = (
    "OK|pass|i.O.|in Ordnung|clean|defect-free|no_defect|non-defective|accept|undamaged|0 - ok|"
    "negative|healthy|"
    "normal_test|Good|crack free|ohne Fehler|fehlerfrei|"
    "sans défaut|bon|sin defecto|bueno|senza difetti|buono|"
    "sem defeito|bom|goed|zonder defect|dobry|bez wady|正常|良品|합격|정상|NonDefective|not defective|1_good"
)
ANOMALOUS = (
    "NG|fail|n.i.O.|nok|not ok|not_good|no good|nicht ok|defective|reject|damaged|1 - bad|defekt|"
    "mauvais|pas bon|"
    "defectuoso|difettoso|defeituoso|slecht|niet goed|wadliwy|不良|不合格|"
    "異常|불량|non conforme|unhealthy|abnormal"
)


@pytest.mark.parametrize("label", NORMAL.split("|"))
def test_normal(label):
    assert meaning(label) == "normal"
    assert meaning(label.upper()) == "normal"


@pytest.mark.parametrize("label", ANOMALOUS.split("|"))
def test_anomalous(label):
    assert meaning(label) == "anomalous"


@pytest.mark.parametrize("label", ["scratch", "A", "no_hole", "goodyear", "missing_label", "good_bad"])
def test_unknown(label):
    assert meaning(label) is None


def listed(folder: Path, *labels: str, column: str = "label") -> Path:
    for number in range(len(labels)):
        Image.new("L", (4, 4), number).save(folder / f"{number}.png")
    rows = "".join(f"{number}.png;{label}\n" for number, label in enumerate(labels))
    (folder / "list.csv").write_text(f"path;{column}\n{rows}", encoding="utf-8")
    return folder / "list.csv"


@pytest.mark.parametrize(
    "pair", ["pass fail", "i.O. n.i.O.", "OK NG", "accept reject", "良品 不良", "ok scratch"]
)
@pytest.mark.parametrize("column", ["label", "is_defective", "target", "is_anomaly", "defect"])
def test_labels_of_a_list(tmp_path, pair, column):
    samples = open_dataset(listed(tmp_path, *pair.split(), column=column)).samples
    assert [sample.label for sample in samples] == [0, 1]


@pytest.mark.parametrize(("labels", "why"), [("A B", "none of the labels"), ("ok clean", "each label could")])
def test_labels_that_leave_it_open_are_refused(tmp_path, labels, why):
    path = listed(tmp_path, *labels.split())
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}: {why}.*labels: .*--normal-labels"):
        open_dataset(path)
    samples = open_dataset(path, normal_labels=[labels.split()[0].lower()]).samples
    assert [sample.label for sample in samples] == [0, 1]


@pytest.mark.parametrize("normal", ["negative", "healthy", "no_defect", "normal_test", "i.O.", "正常"])
@pytest.mark.parametrize("place", ["", "test"])
def test_folders_of_every_layout(tmp_path, normal, place):
    for name in (normal, "crack"):
        folder = tmp_path / place / name
        folder.mkdir(parents=True)
        Image.effect_noise((8, 8), 50).save(folder / "0.png")
    labels = {sample.path.parent.name: sample.label for sample in open_dataset(tmp_path).samples}
    assert labels == {normal: 0, "crack": 1}


def test_named_labels_that_do_not_occur_are_refused(tmp_path):
    path = listed(tmp_path, "0", "1")
    with pytest.raises(DataError, match=r"none of the labels is 'pass' \(labels: 0, 1\)"):
        open_dataset(path, normal_labels=["pass"])
    samples = open_dataset(path, normal_labels=["1"]).samples
    assert [sample.label for sample in samples] == [1, 0]


@pytest.mark.parametrize("place", ["", "test/"])
def test_labels_are_required_of_unknown_folders(tmp_path, place):
    for number, name in enumerate(("foo", "bar")):
        (tmp_path / place / name).mkdir(parents=True)
        Image.effect_noise((8, 8), 50).save(tmp_path / place / name / f"{number}.png")
    with pytest.raises(DataError, match=r"none of the folders is known.*bar, foo.*--normal-labels 'bar'"):
        open_dataset(tmp_path).require_labels()
    dataset = open_dataset(tmp_path, normal_labels="FOO")
    dataset.require_labels()
    assert {sample.path.name: sample.label for sample in dataset.samples} == {"0.png": 0, "1.png": 1}
