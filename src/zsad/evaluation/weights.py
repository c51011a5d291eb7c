"""The learnt weights of a run before a network is loaded: which they are, and what they have seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zsad.data.auxiliary import named_overlap, shared_pictures
from zsad.data.fingerprints import file_digests
from zsad.detector import choosing
from zsad.detector.choosing import PACKAGED_BACKBONE
from zsad.detector.weights import published_weights
from zsad.files.cache import sha256_of
from zsad.files.plain import slug

if TYPE_CHECKING:
    from zsad.data.folder import Dataset


@dataclass(frozen=True)
class RunWeights:
    """Learnt weights as a run will load them, and what they say about themselves.

    Attributes:
        method: registry name.
        backbone: as for `zsad.load`.
        backbone_name: the name of the backbone that this comes to.
        checkpoint: as for `zsad.load`, with everything filled in.
        seed: of the run.
        auxiliary_data: what they were trained on, in words.
        auxiliary_pictures: digests of the images that they were trained on.
        note: what a reader of the numbers should know, "" for nothing.
    """

    method: str
    backbone: str | None
    backbone_name: str
    checkpoint: str | None
    seed: int
    auxiliary_data: str
    auxiliary_pictures: str
    note: str

    @classmethod
    def find(cls, template: str | None, method: str, backbone: str | None, seed: int) -> RunWeights:
        """Reads the description of the weights.

        Raises:
            WeightsError: the file cannot be read, or belongs to another method.
        """
        checkpoint = template
        if template is not None:
            for name, value in (("method", method), ("backbone", slug(backbone or "tiny")), ("seed", seed)):
                checkpoint = str(checkpoint).replace(f"{{{name}}}", str(value))
        found = choosing.find(method, backbone, checkpoint)
        choosing.method_name(method, found)
        auxiliary_data = "" if found is None else found.auxiliary_data or _authors_data(found.path)
        note = ""
        if found is not None and not auxiliary_data:
            note = (
                f"{found.path.name} does not say what it was trained on, so an overlap with the test data "
                "could not be looked for"
            )
        name = backbone or (found.backbone if found else None) or PACKAGED_BACKBONE
        pictures = found.info.auxiliary_pictures if found and found.info else ""
        return cls(method, backbone, name, checkpoint, seed, auxiliary_data, pictures, note)

    def overlap_with(self, dataset: Dataset, digests: DatasetDigests) -> str:
        """What the weights were trained on and is in a dataset, by names and by digests; "" for nothing."""
        found = [named_overlap(self.auxiliary_data, dataset)]
        if self.auxiliary_pictures:
            found.append(shared_pictures(self.auxiliary_pictures, digests.of(dataset)))
        return "; ".join(filter(None, found))


def _authors_data(path: Path) -> str:
    """What an authors' file was trained on, if it is one of those that zsad knows by checksum; else ""."""
    known = {
        each.record.sha256: each.record.auxiliary_data
        for each in published_weights().values()
        if each.record.sha256 is not None
    }
    return known.get(sha256_of(path), "")


class DatasetDigests:
    """Digests of the images of datasets, read once."""

    def __init__(self) -> None:
        self._known: dict[int, dict[Path, bytes]] = {}

    def of(self, dataset: Dataset) -> dict[Path, bytes]:
        """By file."""
        if id(dataset) not in self._known:
            paths = [sample.path for sample in dataset.samples]
            self._known[id(dataset)] = dict(zip(paths, file_digests(paths), strict=True))
        return self._known[id(dataset)]
