"""Folder mode of `zsad predict`: some images of the folder go with every single one as its companions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zsad.detector.support import LEAST_PICTURES, evenly_spread
from zsad.errors import DataError
from zsad.files.run_settings import read_settings

if TYPE_CHECKING:
    from zsad.detector.detector import Detector

COMPANIONS_KEY = "companions"  # of settings.json: what a resumed run compares with, too


def give_companions(detector: Detector, files: Sequence[Path], resumed: Path | None) -> list[str]:
    """Gives the detector companions out of the images that it is going to score, if its method takes any.

    Scoring then needs no more memory than image by image, however many there are.

    Args:
        detector: its companions are replaced.
        files: of the run; those that cannot be read are passed over, they are reported when it is their turn.
        resumed: folder of the run that is gone on with, whose companions are taken again.

    Returns:
        Their paths; none if the method takes none or there are fewer than 8 images.

    Raises:
        DataError: a companion of the run that is gone on with is no longer there.
    """
    most = detector.method.MOST_COMPANIONS
    if not most:
        return []
    earlier = (read_settings(resumed) or {}).get(COMPANIONS_KEY) if resumed is not None else None
    if earlier:
        missing = [path for path in earlier if not os.path.isfile(path)]
        if missing:
            raise DataError(
                f"{missing[0]} is gone, which the earlier images were compared with: "
                "leave --resume out to start over"
            )
        detector.set_companions(earlier)
        return list(earlier)
    drawn = evenly_spread([path for path in files if os.path.isfile(path)], most)
    used = detector.set_companions(drawn if len(drawn) >= LEAST_PICTURES else None)
    if len(used) < LEAST_PICTURES:
        detector.set_companions(None)
        return []
    return [str(drawn[index]) for index in used]


def folder_note(detector: Detector) -> str:
    """A line on what the other images of the folder do to each one's score.

    Args:
        detector: after `give_companions`.

    Returns:
        Empty for a method that takes no companions.
    """
    if detector.method.MOST_COMPANIONS and detector.scores_jointly:
        return (
            f"fewer than {LEAST_PICTURES} images that can be read, too few to compare: "
            "the scores are those of the texts alone"
        )
    return detector.about_companions
