"""The detector of a command: the options that say which one, and its loading."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from zsad.cli.options import (
    AugmentReferencesOption,
    BackboneOption,
    BitsOption,
    CheckpointOption,
    DeviceOption,
    ImageSizeOption,
    MethodOption,
    ReferencesOption,
    RoiOption,
    SettingsOption,
    StateWordsOption,
    TileOption,
    checkpoint_given,
    method_settings,
)
from zsad.cli.printing import print_problems, stderr
from zsad.errors import ConfigError

if TYPE_CHECKING:
    from zsad.detector.detector import Detector


@dataclass(frozen=True, kw_only=True)
class DetectorOptions:
    """Which detector a command loads; each field is an option, and the command line documents it."""

    method: MethodOption = None
    backbone: BackboneOption = None
    checkpoint: CheckpointOption = None
    image_size: ImageSizeOption = None
    device: DeviceOption = None
    bits: BitsOption = None
    tile: TileOption = None
    roi: RoiOption = None
    state_words: StateWordsOption = None
    settings: SettingsOption = None

    def arguments(self) -> dict[str, Any]:
        """The arguments of `zsad.load` by name; the settings of the method are among them.

        Raises:
            ConfigError: a setting is not KEY=VALUE or is an option of its own, or the words cannot be read.
        """
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        settings = method_settings(given.pop("settings"), given.pop("state_words"))
        if name := next((name for name in settings if name in given), None):
            raise ConfigError(f"--set {name} is no setting of a method: give --{name.replace('_', '-')}")
        return {**given, "checkpoint": checkpoint_given(self.checkpoint), **settings}


@dataclass(frozen=True, kw_only=True)
class ComparingOptions(DetectorOptions):
    """Which detector a command loads, and known-normal images that it compares with."""

    references: ReferencesOption = None
    augment_references: AugmentReferencesOption = False


def load_detector(
    *,
    references: list[str] | None,
    recursive: bool = True,
    include_results: bool = False,
    quiet: bool = False,
    **arguments: Any,
) -> Detector:
    """Loads a detector, while a line on the terminal says so.

    Args:
        references: files, folders and patterns of reference images; None for none.
        recursive: whether to search the sub-folders of the references too.
        include_results: whether references may be images that zsad wrote itself, and masks.
        quiet: whether to print nothing.
        **arguments: every other argument of `zsad.load`.
    """
    import zsad
    from zsad.images.finding import search_images

    with stderr(quiet).status("Loading the method..."):
        found = None
        if references:
            search = search_images(references, recursive, include_results=include_results)
            if left_out := str(search.left_out):
                print_problems("note", [f"references: {left_out} (--include-results takes them)"])
            found = search.images
        return zsad.load(references=found, **arguments)
