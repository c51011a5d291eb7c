"""Brings the good images of an earlier fit and new ones together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad.detector.fitting.encoding import Encoded, encode
from zsad.detector.fitting.good_images import joined
from zsad.detector.fitting.wording import listed
from zsad.detector.identity import image_fingerprint
from zsad.detector.support import again_readable, images_given
from zsad.errors import ConfigError, DataError, ImageReadError
from zsad.images.names import file_and_part
from zsad.images.preparing import to_array
from zsad.methods.base import DEFAULT_CLASS

if TYPE_CHECKING:
    from zsad.detector.fitting.good_images import GoodImage, GoodImages
    from zsad.detector.fitting.options import FitOptions
    from zsad.detector.support import Images
    from zsad.images.looking import Looking
    from zsad.methods.base import Method

    Progress = Callable[[int, int], None]


def gathered(
    method: Method,
    looking: Looking,
    source: Images | None,
    options: FitOptions,
    earlier: GoodImages | None,
    progress: Progress | None,
) -> Encoded:
    """All good images to fit to: those of an earlier fit, and new ones.

    Features of whole images are taken over. Only some tiles of an image are kept, too few to score it as a
    new one is scored, so that a detector that cuts images reads the earlier ones again.

    Args:
        method: the system, with what it has learnt.
        looking: how images are read, cut and prepared.
        source: new good images, given as to `Detector.set_references`; None for none.
        options: class name, batch size, and whether references are turned.
        earlier: good images that the detector has been fitted to; None to begin.
        progress: called with the number of images done and the total.

    Raises:
        ConfigError: references are to be turned although earlier ones were kept without it.
        DataError: no image is left, or an earlier one has to be read again and is not there.
    """
    items = again_readable(images_given(source))
    is_turned = options.augment_references

    def encoded(some: Sequence[Any], are_turned: bool, known: Collection[str] = ()) -> Encoded:
        name, at_once = options.class_name or DEFAULT_CLASS, options.batch_size
        return encode(method, looking, some, name, at_once, are_turned, frozenset(known), progress)

    if earlier is None:
        return encoded(items, is_turned)
    if looking.tile is not None:
        again = (*_still_there(earlier.images, looking), *items)
        if not again:
            raise _lost(earlier.images)
        new = encoded(again, is_turned or earlier.are_turned)
        there = {image.fingerprint for image in new.good.images}
        if lost := [image for image in earlier.images if image.fingerprint not in there]:
            raise _lost(lost)
        return new
    if is_turned and not earlier.are_turned:
        raise ConfigError(
            "augment_references=True needs all good images, and the earlier ones were kept without it: "
            "fit to the old and the new images together"
        )
    if not items:
        return Encoded(earlier, {}, (), 0, {})
    new = encoded(items, earlier.are_turned, {image.fingerprint for image in earlier.images})
    return replace(new, good=joined([earlier, new.good]))


def _still_there(images: Sequence[GoodImage], looking: Looking) -> list[str]:
    """Names of the images whose files still hold what they held; other files of that name are not used."""
    found = []
    for image in images:
        if not Path(file_and_part(image.name)[0]).is_file():
            continue
        try:
            whole = looking.read(image.name)[1]
        except ImageReadError:
            continue
        if image_fingerprint(to_array(whole)) == image.fingerprint:
            found.append(image.name)
    return found


def _lost(images: Sequence[GoodImage]) -> DataError:
    """What to say where images of an earlier fit are missing."""
    names = listed([image.name for image in images])
    return DataError(
        "a detector that cuts images into tiles reads its earlier good images again when others are added, "
        f"and {names} cannot be found or changed: give the earlier images too, from where they are now, or "
        "fit to the old and the new images together"
    )
