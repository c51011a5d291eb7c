"""Folder mode of `zsad predict`: each image is compared with some images of the folder, its companions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zsad.detector.support import LEAST_PICTURES, evenly_spread
from zsad.errors import DataError
from zsad.files.run_settings import read_settings
from zsad.images.names import file_and_part

if TYPE_CHECKING:
    from zsad.detector.detector import Detector

COMPANIONS_KEY = "companion_images"  # in settings.json, because a resumed run compares with the same ones


def give_companions(detector: Detector, files: Sequence[Path], resumed: Path | None) -> list[str]:
    """Gives the detector some of the images that it is going to score as companions, if its method takes any.

    Each image is then scored by itself, in the same memory however many images there are.

    Args:
        detector: detector whose companions are replaced.
        files: images of the run; unreadable ones are skipped here and reported when they are scored.
        resumed: folder of the run to resume, whose companions are used again; None for a new run.

    Returns:
        Paths of the companions; none if the method takes none, fewer than 8 images are readable, or the
        detector is fitted, because its threshold holds for images that are scored by themselves.

    Raises:
        DataError: a companion of the run to resume no longer exists.
    """
    most = detector.method.MOST_COMPANIONS
    if not most or detector.good_images is not None:
        return []
    earlier = (read_settings(resumed) or {}).get(COMPANIONS_KEY) if resumed is not None else None
    if earlier:
        missing = [path for path in earlier if not os.path.isfile(file_and_part(path)[0])]
        if missing:
            raise DataError(
                f"{missing[0]} is gone, with which the earlier images were compared: "
                "leave --resume out to start over"
            )
        detector.set_companions(earlier)
        return list(earlier)
    drawn = evenly_spread([path for path in files if os.path.isfile(file_and_part(path)[0])], most)
    used = detector.set_companions(drawn if len(drawn) >= LEAST_PICTURES else None)
    if len(used) < LEAST_PICTURES:
        detector.set_companions(None)
        return []
    return [str(drawn[index]) for index in used]


def folder_note(detector: Detector) -> str:
    """Says how the other images of the folder enter the score of each image.

    Args:
        detector: detector after `give_companions`.

    Returns:
        One line; empty for a method that takes no companions.
    """
    if detector.method.MOST_COMPANIONS and detector.scores_jointly:
        return f"fewer than {LEAST_PICTURES} readable images: scores come from the text prompts only"
    return detector.about_companions
