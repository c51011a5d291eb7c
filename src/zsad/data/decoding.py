"""Decodes the images and masks of a dataset and looks for faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zsad.data.masks import read_mask
from zsad.errors import DataError, ImageReadError
from zsad.images.reading import read_image

if TYPE_CHECKING:
    from concurrent.futures import Future

    from zsad.types import Sample

THREADS = 4
AHEAD = 64


@dataclass(frozen=True)
class SampleCheck:
    """What decoding a sample has shown.

    Attributes:
        sample: the sample.
        fault: one line that begins with the path of the file (unreadable, mask of another size, empty mask of
            a defect); None if there is no fault.
        marked: share of the image that its mask marks, in [0, 1]; None without a usable mask.
    """

    sample: Sample
    fault: str | None = None
    marked: float | None = None


def check_sample(sample: Sample) -> SampleCheck:
    """Decodes the image and the mask of a sample and looks for faults."""
    try:
        image = read_image(sample.path)
        if sample.mask_path is None:
            return SampleCheck(sample)
        mask = read_mask(sample.mask_path)
    except (ImageReadError, DataError) as error:
        return SampleCheck(sample, str(error))
    height, width = mask.shape
    if (width, height) != image.size:
        return SampleCheck(
            sample,
            f"{sample.mask_path}: {width} x {height} pixels, its image {sample.path.name} "
            f"{image.width} x {image.height}; both must be of one size",
        )
    if sample.label == 1 and not mask.any():
        return SampleCheck(
            sample, f"{sample.mask_path}: marks nothing, but {sample.path} is anomalous; mark the defect"
        )
    return SampleCheck(sample, marked=float(mask.mean()))


def decode_all(samples: Sequence[Sample], step: Callable[[], None]) -> Iterator[SampleCheck]:
    """Checks samples in order, some ahead in threads; Pillow decodes without the interpreter's lock."""
    pending: list[Future[SampleCheck]] = []
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for sample in samples:
                pending.append(pool.submit(check_sample, sample))
                if len(pending) >= AHEAD:
                    yield pending.pop(0).result()
                    step()
            for future in pending:
                yield future.result()
                step()
        finally:
            pool.shutdown(cancel_futures=True)
