"""What a user wants to know before choosing a method: needs, how sure it is, published numbers, weights.

`zsad methods` and docs/methods/README.md show the same facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from zsad.detector.choosing import PACKAGED_BACKBONE, shipped
from zsad.evaluation.published import published_number
from zsad.methods._registry import method_class

if TYPE_CHECKING:
    from zsad.evaluation.published import PublishedNumber
    from zsad.types import MethodInfo

CHECKED_BY = {
    "authors": "the authors' code, by recorded numbers",
    "re-implementation": "a re-implementation, by recorded numbers",
    "own loops": "independent loops",
}
BY_OTHERS = "\u2020"
"""Mark of a published number that does not come from the method's own authors."""


DATASETS = ("mvtec", "visa")
METRICS = ("image_auroc", "pixel_auroc")


@dataclass(frozen=True)
class MethodFacts:
    """The facts about one method.

    Attributes:
        info: the method's `INFO`.
        needs: what it needs besides the images: learnt weights, a class name, all images, an extra.
        checked: what its numbers are known to equal; a reconstruction equals nothing that was published.
        published: image AUROC and pixel AUROC without references, in percent, by dataset and metric; None
            where no number is known.
        weights: name of the backbone that learnt weights ship for, and names of weights that can be fetched.
        not_exported_because: why `zsad export` refuses it with its default settings; "" if it exports.
    """

    info: MethodInfo
    needs: tuple[str, ...]
    checked: str
    published: Mapping[str, Mapping[str, PublishedNumber | None]]
    weights: tuple[str, ...]
    not_exported_because: str

    def published_pair(self, dataset: str) -> str:
        """Image AUROC / pixel AUROC on "mvtec" or "visa"; "-" where none is known.

        Example:
            >>> method_facts("winclip").published_pair("mvtec")
            '91.8 / 85.1'
        """
        numbers = self.published[dataset].values()
        if not any(numbers):
            return "-"
        return " / ".join(
            "-" if number is None else f"{number.value}{'' if number.origin == 'authors' else BY_OTHERS}"
            for number in numbers
        )

    def record(self) -> dict[str, Any]:
        """The facts as plain values, as `zsad methods --json` prints them."""
        published = {
            dataset: {
                metric: None
                if number is None
                else {"value": number.value, "origin": number.origin, "source": number.source}
                for metric, number in numbers.items()
            }
            for dataset, numbers in self.published.items()
        }
        return {
            **asdict(self.info),
            "needs": list(self.needs),
            "checked": self.checked,
            "published": published,
            "weights": list(self.weights),
            "not_exported_because": self.not_exported_because,
        }


def method_facts(name: str) -> MethodFacts:
    """The facts about a method.

    Args:
        name: registry name.

    Example:
        >>> method_facts("winclip").needs, method_facts("winclip").weights
        (('class name',), ())
    """
    kind = method_class(name)
    info = kind.INFO
    wants = {
        "learnt weights": info.needs_training,
        "class name": info.uses_class_names,
        "all images": info.scores_batch_jointly,
        f"extra {info.extra}": bool(info.extra),
    }
    here = [PACKAGED_BACKBONE] if info.needs_training and shipped(name, PACKAGED_BACKBONE) else []
    checked = CHECKED_BY[info.checked_by]
    return MethodFacts(
        info,
        needs=tuple(want for want, is_wanted in wants.items() if is_wanted),
        checked=f"reconstruction; {checked}" if info.is_reconstruction else checked,
        published={
            dataset: {metric: published_number(name, dataset, metric) for metric in METRICS}
            for dataset in DATASETS
        },
        weights=(*here, *(record.name for record in kind.WEIGHTS)),
        not_exported_because=kind.EXPORT,
    )
