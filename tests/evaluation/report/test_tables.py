"""Tables of results: what is compared with what, and that every format says the same."""

import csv
import io
import math
import re
import statistics

import pytest
from rich.console import Console

from helpers.evaluation_examples import evaluation_result, run_result
from zsad.data.catalog import dataset_record
from zsad.errors import ConfigError, DataError
from zsad.evaluation.report.formats import latex_escape, to_csv, to_latex, to_markdown, to_text
from zsad.evaluation.report.tables import category_table, group_runs, overview_table
from zsad.metrics import METRIC_NAMES

MVTEC = dataset_record("mvtec")
ALL_OF_MVTEC = {MVTEC.class_name(folder): (20, 60, True) for folder in MVTEC.categories}
EVIL = "<b>a|b & 100% $x_1^2$ \\end{table} #~{}</b>"


def complete_run(method="anomalyclip", **changes):
    return run_result(method, categories=ALL_OF_MVTEC, **changes)


def printed(table, width=160):
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(to_text(table))
    return console.file.getvalue()


def test_published_numbers_stand_beside_ours_with_their_source():
    run = complete_run()
    table = overview_table([run])
    text = printed(table)
    assert f"{100 * run.mean['image_auroc']:.1f}" in text
    assert "(91.5)¹" in text
    assert any("https://arxiv.org/abs/2310.18961" in source for source in table.sources)
    assert f"{100 * run.mean['pixel_aupro']:.1f} (81.4)<sup>1</sup>" in to_markdown(table)
    assert "(81.4)\\textsuperscript{1}" in to_latex(table)


@pytest.mark.parametrize("width", [80, 100, 160])
def test_no_word_is_broken_in_a_terminal(width):
    methods = ("anomalyclip", "april_gan", "dual_image")
    runs = [complete_run(method, seed=seed) for method in methods for seed in (0, 1)]
    runs += [run_result(method, dataset="brisc_brain_tumor") for method in methods]
    for table in (overview_table(runs), category_table(group_runs(runs)[0])):
        lines = printed(table, width).splitlines()
        assert max(map(len, lines)) <= width
        assert "…" not in "".join(lines)
        words = "\n".join(lines).split()
        names = [name for row in table.rows for name in row.labels[:2] if name not in ("20", "60", "300")]
        for word in (*" ".join(names).split(), "F1-max", "AUPRO"):
            assert word in words
        for cell in table.rows[-1].cells:
            assert f"{cell.value:.1f}" in words


def test_image_counts_are_shown_where_they_fit():
    table = category_table(group_runs([complete_run("anomalyclip")])[0])
    assert "anomalous  " in printed(table, 160)
    assert "anomalous  " not in printed(table, 80)


def test_a_mean_over_some_categories_has_no_published_one_beside_it():
    table = overview_table([run_result("anomalyclip")])
    assert all(cell.published is None for row in table.rows for cell in row.cells)
    assert table.sources == ()
    assert any("3 of the 15 categories" in note for note in table.notes)


def test_few_shot_is_compared_with_few_shot():
    zero, four = (overview_table([complete_run("winclip", references=shots)]) for shots in (0, 4))
    assert zero.rows[0].cells[0].published.value == 91.8
    assert four.rows[0].cells[0].published.value == 95.2


def test_seeds_become_mean_and_standard_deviation():
    runs = [complete_run(seed=seed) for seed in (2, 0, 1)]
    (group,) = group_runs(runs)
    assert [run.seed for run in group.runs] == [0, 1, 2]
    cell = overview_table(runs).rows[0].cells[0]
    values = [run.mean["image_auroc"] for run in group.runs]
    assert cell.value == pytest.approx(100 * sum(values) / 3)
    assert cell.deviation == pytest.approx(100 * statistics.stdev(values))
    assert f"{cell.value:.1f} ± {cell.deviation:.1f}" in to_markdown(overview_table(runs))
    text = printed(overview_table(runs))
    assert f" {cell.value:.1f} " in text
    assert f" ± {cell.deviation:.1f} " in text
    assert f"{cell.value:.1f} $\\pm$ {cell.deviation:.1f}" in to_latex(overview_table(runs))


def test_the_same_run_twice_counts_once():
    run = complete_run()
    assert [len(group.runs) for group in group_runs([run, run])] == [1]
    other = complete_run(weights_sha256="00" * 32)
    assert [len(group.runs) for group in group_runs([run, other])] == [1, 1]


def test_what_differs_becomes_a_column():
    large = complete_run(backbone="ViT-L-14-336", image_size=518)
    table = overview_table([complete_run(), large])
    assert table.labels == ("dataset", "method", "backbone", "size")
    assert [row.labels[2:] for row in table.rows] == [("tiny", "192"), ("ViT-L-14-336", "518")]
    table = overview_table(
        [complete_run(), complete_run(settings={"features_list": [2, 4, 6], "sigma": 8.0})]
    )
    assert [row.labels[-1] for row in table.rows] == ["sigma=4.0", "sigma=8.0"]


def test_mean_over_datasets_needs_all_of_them():
    table = overview_table(evaluation_result().runs)
    means = [row for row in table.rows if row.is_mean]
    assert [row.labels[:2] for row in means] == [("mean of 2 sets", "winclip")]
    _, winclip, kvasir = table.rows[:3]
    pixel, image = METRIC_NAMES.index("pixel_auroc"), METRIC_NAMES.index("image_auroc")
    assert means[0].cells[pixel].value == pytest.approx(
        (winclip.cells[pixel].value + kvasir.cells[pixel].value) / 2
    )
    assert means[0].cells[image].value == pytest.approx(winclip.cells[image].value)


def test_undefined_is_a_dash():
    table = overview_table([run_result("winclip", "kvasir", categories={"polyp": (0, 1000, True)})])
    assert math.isnan(table.rows[0].cells[0].value)
    assert "| - | - | - |" in to_markdown(table)
    (row,) = csv.DictReader(io.StringIO(to_csv(table)))
    assert row["image_auroc"] == ""
    assert float(row["pixel_auroc"]) == table.rows[0].cells[3].value


def test_categories_with_their_mean():
    run = complete_run("winclip")
    table = category_table(group_runs([run])[0])
    assert [row.labels[0] for row in table.rows] == [*(row.category for row in run.categories), "mean"]
    assert table.rows[-1].labels[1:] == (str(20 * 15), str(60 * 15))
    nut = next(row for row in table.rows if row.labels[0] == "metal nut")
    assert nut.cells[0].published.value == 96.2  # zqhang's re-implementation, by category
    assert nut.cells[0].interval == run.categories[7].intervals["image_auroc"]


def test_notes_say_how_the_numbers_were_made():
    run = complete_run(
        pro="script", limit=80, overlap="mvtec test split", split="test", notes=("the maps were smoothed",)
    )
    notes = " ".join(overview_table([run, complete_run("winclip", auxiliary_data="")]).notes)
    for piece in (
        "anomalyclip: visa: candle, pcb1 (test split, 400 images); winclip: nothing",
        "Split: test",
        "192 pixels",
        "exact, false-positive rate up to 0.3",
        "computed as in the papers' scripts",
        "official test split: 467 and 1258",
        "maximum number of images per category: 80",
        "overlap (mvtec test split), so this is not a zero-shot result",
        "the maps were smoothed",
    ):
        assert piece in notes


def test_csv_round_trip():
    table = overview_table([complete_run(), complete_run("winclip")], ["image_auroc", "pixel_aupro"])
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert len(rows) == len(table.rows)
    for found, row in zip(rows, table.rows, strict=True):
        assert (found["dataset"], found["method"]) == row.labels
        for metric, cell in zip(table.metrics, row.cells, strict=True):
            assert float(found[metric]) == cell.value
            assert float(found[f"{metric}_published"]) == cell.published.value
            assert cell.published.source in found[f"{metric}_source"]


def test_markdown_rows_have_as_many_cells():
    run = run_result(categories={EVIL: (5, 5, True), "plain": (5, 5, True)})
    text = to_markdown(category_table(group_runs([run])[0]))
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {3 + 7 + 1}
    assert "<b>" not in text


def test_latex_is_balanced_and_escaped():
    run = run_result(categories={EVIL: (5, 5, True)}, notes=(EVIL,), auxiliary_data=EVIL)
    for table in (category_table(group_runs([run])[0]), overview_table([run, complete_run("winclip")])):
        text = to_latex(table)
        for name in ("table", "tabular"):
            assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") == 1
        body = text.split("\\toprule")[1].split("\\bottomrule")[0]
        rows = [line for line in body.splitlines() if line.endswith("\\\\")]
        columns = len(table.labels) + len(table.metrics)
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {columns - 1}
        depth = 0
        for brace in re.findall(r"(?<!\\)[{}]", text):
            depth += 1 if brace == "{" else -1
            assert depth >= 0
        assert depth == 0
        assert not re.search(r"(?<!\\)[#]", text)
        assert not re.search(r"(?<!\\)%(?! \\usepackage)", text)


def test_latex_escape_leaves_no_active_character():
    escaped = latex_escape(EVIL)
    left = re.sub(
        r"\\(textbackslash|textasciicircum|textasciitilde|textless|textgreater)\{\}|\\[{}$&#%_]", "", escaped
    )
    assert not set(left) & set("\\{}$&#%_^~")


def test_refusals():
    with pytest.raises(DataError, match="no finished run"):
        overview_table([])
    with pytest.raises(ConfigError, match="did you mean 'image_auroc'"):
        overview_table([complete_run()], ["image_auroq"])
