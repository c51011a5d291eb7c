"""The numbers that papers and repositories have published, as data with their sources.

They stand in `published_results.yaml`, one block for each published table. A number is quoted as published:
nothing is recomputed, and where sources contradict each other both numbers are there, each with its source.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from zsad.methods._registry import list_methods, method_class

PUBLISHED_FILE = "published_results.yaml"
NOTHING = "nothing"

Origin = Literal["authors", "others", "notes", "independent", "recalled"]
ORIGINS: tuple[Origin, ...] = ("authors", "others", "notes", "independent", "recalled")  # best first


@dataclass(frozen=True)
class PublishedNumber:
    """One number of one published table.

    Attributes:
        method: as `zsad.list_methods` spells it, for a method that zsad has.
        dataset: as the catalogue spells it, for a set that it has; "mean of ..." for a mean over sets.
        category: None for the mean over the set's categories.
        metric: one of `zsad.metrics.METRIC_NAMES`.
        value: in percent, in (0, 100].
        trained_on: the auxiliary data, "nothing" for a method that learns nothing.
        shots: good images of the category that the method was given.
        variant: what differs from the method's default; "" for nothing.
        source: the paper or repository.
        link: its address; "" where none is known.
        table: which of the source's tables.
        origin: "authors" for the method's own authors, "others" for another paper's table, "independent" for
            a re-implementation, "notes" for a third party's reading notes, "recalled" for a number from
            memory; the last two have not been checked against the source.
        remark: anything else that a reader should know; "" for nothing.
    """

    method: str
    dataset: str
    category: str | None
    metric: str
    value: float
    trained_on: str
    shots: int
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
    """All published numbers that fit.

    Args:
        method: registry name, None for every method.
        dataset: name in the catalogue, None for every set.
        metric: one of `zsad.metrics.METRIC_NAMES`, None for all.
        shots: number of good images given, None for any.

    Returns:
        Numbers in the file's order; empty if none is known.

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
    """The one number to print beside a result: the authors' own if there is one.

    Args:
        method: registry name.
        dataset: name in the catalogue.
        metric: one of `zsad.metrics.METRIC_NAMES`.
        shots: good images given.
        category: None for the mean over categories.

    Returns:
        The number of the best origin (order of `ORIGINS`), the file's first among equals; None if none is
        known. Variants of a method never count.
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
                yield PublishedNumber(
                    method=method,
                    dataset=dataset,
                    category=category or None,
                    metric=metric,
                    value=float(value),
                    trained_on=_trained_on(block, source, method, dataset, training_free),
                    shots=block.get("shots", 0),
                    variant=variant,
                    source=source["title"],
                    link=source.get("link", ""),
                    table=block["table"],
                    origin=block.get("origin", source.get("origin", default)),
                    remark="; ".join(remark for remark in remarks if remark),
                )


def _trained_on(
    block: Mapping[str, Any],
    source: Mapping[str, Any],
    method: str,
    dataset: str,
    training_free: frozenset[str],
) -> str:
    """The auxiliary data by the rules at the head of the file."""
    if method in training_free:
        return NOTHING
    by_method = source.get("trained_on_else", {}).get(method)
    usual = "visa" if dataset == "mvtec" else "mvtec"
    found = block.get("trained_on", {}).get(dataset) or block.get("trained_on_else") or by_method or usual
    return str(found)
