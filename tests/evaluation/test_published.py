"""The published numbers: every row well-formed and sourced, and the same as in the notes they come from."""

import re
from pathlib import Path

import pytest

import zsad
from zsad.data.catalog import list_datasets
from zsad.evaluation.published import NOTHING, ORIGINS, published_number, published_results
from zsad.metrics import METRIC_NAMES

NOTES = Path(__file__).parents[2] / ".." / "shared" / "methods" / "published_results.md"


def test_every_row_is_well_formed():
    numbers = published_results()
    assert len(numbers) > 2000
    for number in numbers:
        assert 0 < number.value <= 100, number
        assert number.metric in METRIC_NAMES, number
        assert number.origin in ORIGINS, number
        assert number.source, number
        assert number.table, number
        assert number.trained_on, number
        assert number.link.startswith("https://") or (not number.link and number.origin == "notes"), number
        assert re.fullmatch(r"[a-z0-9_]+", number.method), number


def test_no_number_stands_twice_in_a_table():
    seen = set()
    for number in published_results():
        key = (number.source, number.table, number.method, number.variant, number.dataset, number.category)
        key = (*key, number.metric, number.shots)
        assert key not in seen, key
        seen.add(key)


def test_methods_of_zsad_are_spelt_as_in_its_list():
    published = {number.method for number in published_results()}
    # The papers of Dual-Image and grounding could not be read by whoever collected the numbers.
    assert set(zsad.list_methods()) - published <= {"dual_image", "auto", "grounding"}
    plain = {re.sub("[^a-z0-9]", "", name): name for name in zsad.list_methods()}
    for name in published:
        assert plain.get(re.sub("[^a-z0-9]", "", name), name) == name


def test_data_sets_are_spelt_as_in_the_catalogue():
    published = {number.dataset for number in published_results()}
    outside = {
        "brain_bmad", "cvc300", "eyecandies", "liver_ct", "mvtec_3d", "resc", "retina_oct", "rsdd",
    }  # fmt: skip
    unknown = {name for name in published if not name.startswith("mean of")} - set(list_datasets())
    assert unknown <= outside


# method, data set, metric, source, value, a piece of the notes in which it stands
SPOT_CHECKS = [
    ("anomalyclip", "mvtec", "image_auroc", "AnomalyCLIP", 91.5, "| MVTec AD | 74.1, 87.6 |"),
    ("coop", "visa", "image_ap", "AnomalyCLIP", 68.1, "| VisA | 66.4, 71.5 |"),
    ("april_gan", "btad", "pixel_aupro", "AnomalyCLIP", 25.0, "| BTAD | 30.6, 4.4 |"),
    ("anomalyclip", "covid19", "image_ap", "AnomalyCLIP", 58.7, "| COVID-19 | 73.7, 42.4 |"),
    ("glocalclip", "tn3k", "pixel_aupro", "GlocalCLIP", 53.6, "| TN3K | 39.1, 10.2 |"),
    ("adaclip", "mvtec", "pixel_aupro", "GlocalCLIP", 37.8, "MVTec | 38.2, 8.8 |"),
    ("anovl", "ksdd", "pixel_auroc", "Crane", 97.1, "| KSDD | 68.8, 24.2, 21.3 |"),
    ("crane_plus", "br35h", "image_f1max", "Crane", 91.0, "| Br35H | 80.5, 82.2, 74.4 |"),
    ("musc", "visa", "pixel_ap", "MuSc", 45.1, "| **MuSc** VisA |"),
    ("bayes_pfl", "headct", "image_ap", "MoECLIP", 93.2, "| Bayes-PFL | 92.2, 96.1 |"),
    ("visual_ad", "dagm", "image_f1max", "VisualAD", 95.0, "| DAGM | 91.8, 75.8, 79.5 |"),
    ("winclip", "ksdd2", "pixel_aupro", "CoEvoAD", 91.2, "| KSDD2 | 93.5, 77.9 / 97.9, 91.2 |"),
    ("edmprompt", "clinicdb", "pixel_aupro", "EDMPrompt", 72.5, "92.6, 85.8; 84.4, 73.4; 85.6, 72.5"),
    ("tipsomaly", "isic", "pixel_f1max", "Tipsomaly", 80.2, "ISIC 94.0, 87.0, 80.2"),
]


@pytest.mark.parametrize(("method", "dataset", "metric", "source", "value", "line"), SPOT_CHECKS)
def test_as_in_the_notes(method, dataset, metric, source, value, line):
    found = [n for n in published_results(method, dataset, metric) if n.source.startswith(source)]
    assert value in [n.value for n in found if not n.variant]
    if not NOTES.is_file():
        pytest.skip("the notes ../shared/methods/published_results.md are not here")
    (place,) = {row for row in NOTES.read_text(encoding="utf-8").splitlines() if line in row}
    assert str(value) in place


def test_every_number_of_the_notes_tables_is_there():
    """Counts numbers of the main tables' cells; ranges and prose are not tables."""
    if not NOTES.is_file():
        pytest.skip("the notes ../shared/methods/published_results.md are not here")
    values = {f"{number.value:.1f}" for number in published_results()}
    text = NOTES.read_text(encoding="utf-8").split("## 10.")[0]
    cells = [cell for row in text.splitlines() if row.startswith("|") for cell in row.split("|")[2:]]
    written = {value for cell in cells for value in re.findall(r"\b\d+\.\d\b", cell)}
    assert len(written) > 500
    assert written <= values


def test_the_authors_own_number_is_preferred():
    own = published_number("anomalyclip", "mvtec", "pixel_auroc")
    assert (own.value, own.origin, own.trained_on) == (91.1, "authors", "visa")
    quoted = published_number("adaclip", "mvtec", "image_ap")
    assert quoted.origin == "others"
    assert published_number("winclip", "visa", "image_auroc").value == 78.1
    assert published_number("winclip", "visa", "image_auroc").trained_on == NOTHING
    assert published_number("winclip", "visa", "image_auroc", shots=4).origin == "recalled"
    assert published_number("winclip", "mvtec", "image_auroc", category="screw").value == 71.7
    assert published_number("no_such_method", "mvtec", "image_auroc") is None
