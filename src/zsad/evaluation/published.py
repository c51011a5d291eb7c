"""Numbers that papers and repositories have published, with their sources.

`published_results.yaml` holds one block for each published table. Numbers are quoted as published: nothing is
recomputed, and where sources contradict each other, the file has both numbers, each with its source.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Any, Literal

from zsad.files.fields import Above, AtLeast, AtMost
from zsad.files.plain import from_plain
from zsad.methods._registry import list_methods, method_class

PUBLISHED_FILE = "published_results.yaml"
NOTHING = "nothing"

Origin = Literal["authors", "others", "notes", "independent", "recalled"]
ORIGINS: tuple[Origin, ...] = ("authors", "others", "notes", "independent", "recalled")  # best first


@dataclass(frozen=True)
class PublishedNumber:
    """One number of one published table.

    Attributes:
        method: name of the method; the registry name if zsad has the method.
        dataset: name of the dataset; the catalogue's name if it has the dataset; "mean of ..." for a mean
            over datasets.
        category: category of the dataset; None for the mean over its categories.
        metric: one of `zsad.metrics.METRIC_NAMES`.
        value: value in percent, in (0, 100].
        trained_on: auxiliary data; "nothing" for a method that learns nothing.
        shots: number of references per category.
        variant: difference from the method's default; "" if there is none.
        source: paper or repository.
        link: address of the source; "" if it is not known.
        table: table of the source.
        origin: "authors" for the method's own authors, "others" for another paper's table, "independent" for
            a re-implementation, "notes" for a third party's reading notes, "recalled" for a number from
            memory; the last two have not been checked against the source.
        remark: remark for readers; "" if there is none.
    """

    method: str
    dataset: str
    category: str | None
    metric: str
    value: Annotated[float, Above(0), AtMost(100)]
    trained_on: str
    shots: Annotated[int, AtLeast(0)]
    variant: str
    source: str
    link: str
    table: str
    origin: Origin
    remark: str


def published_results(
    method: str | None = None,
    dataset: str | None = None,
    metric: str | None = None,
    shots: int | None = None,
) -> tuple[PublishedNumber, ...]:
    """Finds published numbers.

    Args:
        method: registry name; None for every method.
        dataset: name in the catalogue; None for every dataset.
        metric: one of `zsad.metrics.METRIC_NAMES`; None for all metrics.
        shots: number of references per category; None for any number.

    Returns:
        Numbers in the order of the file; empty if none is known.

    Example:
        >>> [number.value for number in published_results("musc", "mvtec", "image_auroc")]
        [97.8, 97.8]
    """
    wanted = {"method": method, "dataset": dataset, "metric": metric, "shots": shots}
    return tuple(
        number
        for number in _all_numbers()
        if all(value is None or getattr(number, name) == value for name, value in wanted.items())
    )


def published_number(
    method: str, dataset: str, metric: str, shots: int = 0, category: str | None = None
) -> PublishedNumber | None:
    """Finds the number to print beside a result: the authors' own if there is one.

    Args:
        method: registry name.
        dataset: name in the catalogue.
        metric: one of `zsad.metrics.METRIC_NAMES`.
        shots: number of references per category.
        category: category of the dataset; None for the mean over its categories.

    Returns:
        The number with the best origin (in the order of `ORIGINS`), among equals the first of the file; None
        if no number is known. Variants of a method do not count.
    """
    candidates = [
        number
        for number in published_results(method, dataset, metric, shots)
        if number.category == category and not number.variant
    ]
    return min(candidates, key=lambda number: ORIGINS.index(number.origin), default=None)


@functools.cache
def _all_numbers() -> tuple[PublishedNumber, ...]:
    import yaml

    text = resources.files("zsad.evaluation").joinpath(PUBLISHED_FILE).read_text(encoding="utf-8")
    data = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 # both are safe
    doubts = {
        (doubt["source"], doubt["method"], doubt["dataset"], doubt["metric"]): doubt["remark"]
        for doubt in data["doubts"]
    }
    own = {name for name in list_methods() if not method_class(name).INFO.needs_training}
    training_free = frozenset(own | set(data["training_free_elsewhere"]))
    return tuple(
        number
        for block in data["tables"]
        for number in _numbers_of(block, data["sources"][block["source"]], doubts, training_free)
    )


def _numbers_of(
    block: Mapping[str, Any],
    source: Mapping[str, Any],
    doubts: Mapping[tuple[str, str, str, str], str],
    training_free: frozenset[str],
) -> Iterator[PublishedNumber]:
    for row, cells in block["rows"].items():
        dataset, _, category = row.partition("/")
        for column, values in zip(block["columns"], cells, strict=True):
            method, _, variant = column.partition(":")
            default: Origin = "authors" if method in source.get("own", ()) else "others"
            for metric, value in zip(block["metrics"], values, strict=True):
                if value is None:
                    continue
                doubt = doubts.get((block["source"], method, dataset, metric))
                remarks = (source.get("remark"), block.get("remark"), doubt)
                values_by_name = {
                    "method": method,
                    "dataset": dataset,
                    "category": category or None,
                    "metric": metric,
                    "value": value,
                    "trained_on": _trained_on(block, source, method, dataset, training_free),
                    "shots": block.get("shots", 0),
                    "variant": variant,
                    "source": source["title"],
                    "link": source.get("link", ""),
                    "table": block["table"],
                    "origin": block.get("origin", source.get("origin", default)),
                    "remark": "; ".join(remark for remark in remarks if remark),
                }
                where = f"{PUBLISHED_FILE}, {block['source']}, {row}, {column}"
                yield from_plain(PublishedNumber, values_by_name, where)


def _trained_on(
    block: Mapping[str, Any],
    source: Mapping[str, Any],
    method: str,
    dataset: str,
    training_free: frozenset[str],
) -> str:
    """Auxiliary data by the rules at the head of the file."""
    if method in training_free:
        return NOTHING
    by_method = source.get("trained_on_else", {}).get(method)
    usual = "visa" if dataset == "mvtec" else "mvtec"
    found = block.get("trained_on", {}).get(dataset) or block.get("trained_on_else") or by_method or usual
    return str(found)
