"""Writes docs/methods: a page for each method, from its docstring, `INFO` and `Config`, and one that compares them.

python tools/make_method_pages.py
"""

from __future__ import annotations

import csv
import dataclasses
import inspect
import re
import statistics
import sys
import typing
from pathlib import Path

from zsad.backbones.catalog import PAPERS_BACKBONE
from zsad.detector.choosing import PACKAGED_BACKBONE, shipped
from zsad.evaluation.method_facts import BY_OTHERS, CHECKED_BY, method_facts
from zsad.evaluation.published import published_number
from zsad.files.settings import describe
from zsad.methods._registry import list_methods, method_class
from zsad.methods.base import Method, MethodConfig
from zsad.types import MethodInfo

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "methods"

MEASURED = ("methods_on_tiny", "new_methods_on_tiny")  # of benchmarks/results
MEASURED_HOW = """\
The sets are those of `../shared/data/evaluation`: nothing was trained or calibrated on them. The image encoder and all
parts that methods learn were trained on synthetic defects and on annotated images of other objects (VisA's capsules and macaroni1,
aluminium surfaces, concrete), see the card, `src/zsad/backbones/tiny/README.md`; methods that do not learn have nothing
beyond the encoder. Some rows were made more than once, and those of `auto`, `anomalyclip` and `clip_ac` before the image
score of `tiny` took in the patches: `benchmarks/README.md` says which and why. `auto`, `musc` and `dual_image` see the other images of a set, unlabelled. All metrics by category:
`benchmarks/results`.

```console
$ zsad evaluate -m METHOD --data ../shared/data/evaluation --out measured/METHOD        # for each method
$ zsad report measured/* --format markdown,csv --out benchmarks/results/new_methods_on_tiny
```"""

NOTE = "<!-- Written by tools/make_method_pages.py from {source}: change that, and run the tool. -->"

HOW_TO_ADD = """\
A method is one file, in `src/zsad/methods` or in a package of your own: [how to add one](../adding_a_method.md), with a
whole method that the tests run.
"""


def main() -> None:
    """Writes all pages and removes those of methods that are gone."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = pages()
    for path in FOLDER.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text, encoding="utf-8", newline="\n")
    sys.stdout.write(f"{len(wanted)} pages in {FOLDER}\n")


def pages() -> dict[str, str]:
    """The text of every page, by file name."""
    names = [name for name in list_methods() if is_ours(name)]
    return {"README.md": comparison(names), **{f"{name}.md": page(name) for name in names}}


def is_ours(name: str) -> bool:
    """Whether a method is of this package; plug-ins on this machine get no page."""
    return method_class(name).__module__ == f"zsad.methods.{name}"


def page(name: str) -> str:
    """The page of one method."""
    kind = method_class(name)
    info = kind.INFO
    title, _, description = (inspect.getdoc(sys.modules[kind.__module__]) or "").partition("\n")
    code = f"[the authors' code]({info.code})" if info.code else "the authors published no code"
    lines = [
        NOTE.format(source=f"src/zsad/methods/{name}.py"),
        f"# {info.title}",
        "",
        f"**{title}**",
        "",
        f"`{name}` · {info.year} · [paper]({info.paper}) · {code} · "
        f"source: `src/zsad/methods/{name}.py` · [all methods](README.md)",
        "",
        description.strip(),
        "",
        "## Use",
        "",
        "```console",
        *commands(kind),
        "```",
        "",
        "| | |",
        "|---|---|",
        *(f"| {question} | {answer} |" for question, answer in answers(kind).items()),
        "",
        *authors_weights(kind),
        "## Settings",
        "",
        "On the command line `--set NAME=VALUE`, in Python `zsad.load(..., NAME=VALUE)`.",
        "",
        "| name | default | type | meaning |",
        "|---|---|---|---|",
        *settings(kind),
    ]
    return "\n".join(lines) + "\n"


def commands(kind: type[Method]) -> list[str]:
    """What to type."""
    info = kind.INFO
    predict = f"$ zsad predict parts/ --method {info.name}"
    if info.uses_class_names:
        predict += ' --class-name "metal nut"'
    if needs_own_weights(kind):
        predict += " --checkpoint prompts.safetensors"
    lines = [predict]
    lines.append(f"{predict} --references good/   # with a few known-normal images")
    if info.needs_training:
        lines.append(f"$ zsad train --method {info.name} --data my-dataset --out prompts.safetensors")
    return lines


def authors_weights(kind: type[Method]) -> list[str]:
    """The files that the authors of a method published, by zsad's names for them."""
    name = kind.INFO.name
    records = kind.WEIGHTS
    if not takes_authors_files(kind):
        return []
    lines = ["## The authors' weights", ""]
    if not records:
        note = kind.WEIGHTS_NOTE or "the authors have published no weights"
        lines += [f"{note[0].upper()}{note[1:]}. Files in the layout of their code are accepted:", ""]
    shown = records[0].name if records else "THEIRS.pth"
    lines += [
        "```console",
        *([f"$ zsad weights fetch {shown}"] if records else []),
        f"$ zsad predict parts/ --method {name} --backbone {PAPERS_BACKBONE} --checkpoint {shown}",
        "```",
        "",
    ]
    if records:
        lines += ["| name | trained on | SHA-256 | notes |", "|---|---|---|---|"]
        lines += [
            f"| `{record.name}` | [{record.auxiliary_data}]({record.source}) | {record.sha256 or 'not known'} "
            f"| {cell(record.notes)} |"
            for record in records
        ]
        lines.append("")
    return lines


def answers(kind: type[Method]) -> dict[str, str]:
    """What a method needs, by question; the columns of the comparison."""
    info = kind.INFO
    return {
        "learns": yes(info.needs_training),
        "class names": yes(info.uses_class_names),
        "extra": f"`{info.extra}`" if info.extra else "none",
        "references": "own rule" if info.references == "own" else "general rule",
        "scores a batch together": yes(info.scores_batch_jointly),
        "reconstruction": yes(info.is_reconstruction),
        "checked against": CHECKED_BY[info.checked_by],
        "MVTec AD": method_facts(info.name).published_pair("mvtec"),
        "VisA": method_facts(info.name).published_pair("visa"),
        f"weights on `{PACKAGED_BACKBONE}`": shipped_weights(kind),
        "weights to fetch": ", ".join(f"`{record.name}`" for record in kind.WEIGHTS) or "none",
        "takes the authors' files": yes(takes_authors_files(kind)) if info.needs_training else "has none",
    }


def yes(is_so: bool) -> str:
    """A truth value in a table."""
    return "yes" if is_so else "no"


def takes_authors_files(kind: type[Method]) -> bool:
    """Whether a method reads its authors' layout."""
    return kind.load_official is not Method.load_official


def needs_own_weights(kind: type[Method]) -> bool:
    """Whether the method has to be trained before it can predict."""
    return kind.INFO.needs_training and shipped(kind.INFO.name, PACKAGED_BACKBONE) is None


def shipped_weights(kind: type[Method]) -> str:
    """Whether the package holds the learnt weights of the method."""
    if not kind.INFO.needs_training:
        return "needs none"
    return "train them" if needs_own_weights(kind) else "shipped"


def settings(kind: type[Method]) -> list[str]:
    """A table row for each field of a method's `Config`."""
    hints = typing.get_type_hints(kind.Config, include_extras=True)
    meanings = described_settings(kind)
    of_all = {field.name for field in dataclasses.fields(MethodConfig)}
    fields = sorted(dataclasses.fields(kind.Config), key=lambda field: field.name in of_all)
    return [
        f"| `{field.name}` | `{shown_default(field.default)}` | {cell(describe(hints[field.name]))} "
        f"| {cell(meanings[field.name])} |"
        for field in fields
    ]


def described_settings(kind: type[Method]) -> dict[str, str]:
    """The meaning of each field of a method's `Config`, also of those that it inherits."""
    meanings: dict[str, str] = {}
    for each in reversed(kind.Config.__mro__):
        if dataclasses.is_dataclass(each):
            meanings |= described_attributes(inspect.getdoc(each) or "")
    return meanings


def shown_default(value: object) -> str:
    """A default as it is typed after `=`."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def which_one(kinds: list[type[Method]]) -> list[str]:
    """Advice that follows from what the methods need and from the numbers of their own authors."""
    groups = {
        "Each image by itself, nothing learnt": lambda info: (
            not info.needs_training and not info.scores_batch_jointly
        ),
        "Each image by itself, with learnt weights and no class name": lambda info: (
            info.needs_training and not info.uses_class_names and not info.scores_batch_jointly
        ),
        "Each image by itself, with learnt weights and a class name": lambda info: (
            info.needs_training and info.uses_class_names and not info.scores_batch_jointly
        ),
        "All images of a product together": lambda info: info.scores_batch_jointly,
    }
    lines = [
        "## Which one should I take?",
        "",
        "By what you can give it, and then by the highest image AUROC that the authors themselves published, in percent, "
        "with the paper's backbone (no public code reproduces WinCLIP's numbers):",
        "",
    ]
    for title, belongs in groups.items():
        infos = [kind.INFO for kind in kinds if belongs(kind.INFO) and not kind.INFO.is_reconstruction]
        lines.append(
            f"* **{title}**: {best_published(infos, 'mvtec')} on MVTec AD, {best_published(infos, 'visa')} on VisA."
        )
    return [
        *lines,
        "",
        "A learnt method needs weights for the backbone that you use: those shipped with `tiny`, the authors', or your own "
        "from `zsad train`. What was measured with `tiny` stands [below](#measured-on-tiny). `zsad predict` takes `auto` by itself for a folder with enough images. With a few "
        "known-normal images, take any of them: each method takes references.",
        "",
        "## All methods",
    ]


def best_published(infos: list[MethodInfo], dataset: str) -> str:
    """The method with the highest image AUROC by its own authors, and the number."""
    found = [(published_number(info.name, dataset, "image_auroc"), info.name) for info in infos]
    known = [(number.value, name) for number, name in found if number and number.origin == "authors"]
    return "nothing known" if not known else "`{1}` ({0})".format(*max(known))


def measured() -> list[str]:
    """The table of methods and sets on the packaged backbone, from the results that are kept."""
    rows = [
        row
        for folder in MEASURED
        if (file := ROOT / "benchmarks" / "results" / folder / "categories.csv").exists()
        for row in csv.DictReader(file.read_text(encoding="utf-8-sig").splitlines())
        if row["category"] != "mean"
    ]
    sets = list(dict.fromkeys((row["dataset"], row["category"]) for row in rows))
    found = {(row["method"], row["dataset"], row["category"]): row for row in rows}
    table = {}
    for name in dict.fromkeys(row["method"] for row in rows):
        of_sets = [found.get((name, *each), {}) for each in sets]
        means = [mean_of(of_sets, "image_auroc"), mean_of(of_sets, "pixel_auroc")]
        table[name] = (
            means,
            [pair(*(row.get(f"{part}_auroc", "") for part in ("image", "pixel"))) for row in of_sets],
        )
    ordered = sorted(table.items(), key=lambda entry: -entry[1][0][0])
    return [
        f"## Measured on `{PACKAGED_BACKBONE}`",
        "",
        "Image AUROC / pixel AUROC in percent; first the means over the sets with normal images, and with masks:",
        "",
        f"| method | learns | mean | {' | '.join(category for _, category in sets)} |",
        "|---" * (len(sets) + 3) + "|",
        *(
            f"| {name} | {learnt_part(name)} | {pair(*map(str, means))} | {' | '.join(cells)} |"
            for name, (means, cells) in ordered
        ),
        "",
        MEASURED_HOW,
        "",
    ]


def mean_of(rows: list[dict[str, str]], metric: str) -> float:
    """Mean over the rows that have a number."""
    return statistics.mean(float(row[metric]) for row in rows if row.get(metric))


def pair(image: str, pixel: str) -> str:
    """Two numbers in percent, "-" for one that is missing."""
    return " / ".join(f"{float(value):.1f}" if value else "-" for value in (image, pixel))


def learnt_part(name: str) -> str:
    """Whether the method has a learnt part of its own."""
    return yes(method_class(name).INFO.needs_training)


def cell(text: str) -> str:
    """Text that does not end a table's cell."""
    return text.replace("|", "\\|")


def described_attributes(docstring: str) -> dict[str, str]:
    """The entries under "Attributes:" of a Google docstring, each on one line."""
    _, _, section = docstring.partition("Attributes:\n")
    section, _, _ = section.partition("\n\n")
    entries = re.split(r"^ {4}(\w+): ", section, flags=re.MULTILINE)[1:]
    return {name: " ".join(text.split()) for name, text in zip(entries[::2], entries[1::2], strict=True)}


def comparison(names: list[str]) -> str:
    """The page that compares all methods."""
    kinds = [method_class(name) for name in names]
    questions = list(answers(kinds[0]))
    rows = [
        f"| [{kind.INFO.title}]({kind.INFO.name}.md) | {kind.INFO.year} | "
        + " | ".join(answers(kind).values())
        + " |"
        for kind in kinds
    ]
    lines = [
        NOTE.format(source="src/zsad/methods"),
        "# Methods",
        "",
        *which_one(kinds),
        "",
        f"| method | year | {' | '.join(questions)} |",
        "|---" * (len(questions) + 2) + "|",
        *rows,
        "",
        "*Learns*: needs weights learnt on an auxiliary set, never on the images to be scored. *Class names*: the "
        'score depends on `--class-name`, which is "object" by default. *References*: how known-normal images '
        "(`--references`) are used: by the paper's own rule, or by zsad's general rule, the distance to the nearest reference "
        "patch in units of what is usual between references, joined with the method's own answer. *Scores a batch together*: the score of an image depends "
        "on the other images. *Extra*: an optional extra of zsad without which the method runs in a plainer form. "
        "*Reconstruction*: the paper leaves parts open, or could not be read, and these parts are zsad's own; the "
        "method's page says which. *Checked against*: the source of the numbers that `tests/methods` compares with. "
        f"*MVTec AD*, *VisA*: image AUROC / pixel AUROC in percent without references, as published, with the paper's "
        f"backbone; {BY_OTHERS} if it is published by others than the authors. *Weights on "
        f"`{PACKAGED_BACKBONE}`*: whether the learnt weights for the small model inside the package are shipped.",
        "",
        *measured(),
        "## How to add a method",
        "",
        HOW_TO_ADD,
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


if __name__ == "__main__":
    main()
