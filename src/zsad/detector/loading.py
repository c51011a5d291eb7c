"""`zsad.load`: builds a detector from names and files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zsad.backbones.clip import CLIP
from zsad.backbones.devices import check_precision, find_device
from zsad.backbones.loading import backbone_fingerprint, load_backbone
from zsad.detector import choosing
from zsad.detector.decision import Decision
from zsad.detector.detector import Detector
from zsad.detector.fitting.good_images import GoodImages
from zsad.detector.looking import as_region
from zsad.detector.thresholds import NO_CALIBRATION, Calibration, read_calibration
from zsad.errors import ConfigError, WeightsError
from zsad.files.settings import build_config
from zsad.images.limits import common_depth
from zsad.images.region import Region
from zsad.methods import _registry as registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zsad.detector.checkpoints import Checkpoint
    from zsad.detector.looking import RegionInput
    from zsad.detector.support import Images
    from zsad.images.tiles import Tile
    from zsad.types import Activation


def load(
    method: str | None = None,
    backbone: str | Path | CLIP | None = None,
    checkpoint: str | Path | Sequence[str | Path] | None = None,
    *,
    image_size: int | None = None,
    device: str | torch.device | None = None,
    precision: str | None = None,
    bits: int | None = None,
    tile: Tile = None,
    references: Images | None = None,
    augment_references: bool = False,
    calibration: Calibration | str | Path | None = None,
    roi: RegionInput = None,
    **config: Any,
) -> Detector:
    """Builds a detector, which is ready to predict if there are weights for its method and backbone.

    Args:
        method: name from `zsad.list_methods()`; None for the method of the checkpoint, or "anomalyclip".
        backbone: whatever `zsad.backbones.loading.load_backbone` accepts, or a network that it returned,
            which stays as it is and may serve several detectors; None for the backbone of the checkpoint, or
            "tiny", which zsad ships.
        checkpoint: file from `Detector.save` or from the authors of the method, a list or a folder of the
            files that they publish apart, or the name of a fetched
            authors' file in `zsad weights list`; None for the weights that zsad ships for method and
            backbone, if any; "fresh" for new random parameters to be trained.
        image_size: pixels a side that images are resized to, a multiple of the patch size; None for the size
            in the checkpoint, or the size that the backbone's weights (or the method's paper) were made for.
        device: device name; None for a CUDA GPU if there is one, then Apple's GPU, then the CPU.
        precision: precision of the backbone, "fp32" (None), "bf16" or "fp16".
        bits: depth of the values in 16-bit files, 1 to 16, such as 12 for a 12-bit camera, in references and
            in images to score; None for ZSAD_BITS, the depth in the checkpoint, or what the files state.
        tile: how large images are cut into overlapping tiles, as `Detector.predict` takes it; None for the
            setting of the checkpoint, or whole images.
        references: known-normal images to compare with, as `Detector.set_references` takes them: a file, a
            folder, a pattern or a list; they replace the good images of a fitted checkpoint.
        augment_references: whether each reference also counts in the other seven ways that quarter turns and
            a flip give, for parts that lie in any direction.
        calibration: calibration as `Detector.apply_calibration` takes it; without a checkpoint it also
            supplies arguments that are None. None for the calibration in the checkpoint, if any; "none"
            for no calibration and no thresholds.
        roi: region of interest, "x,y,width,height" in pixels or shares of the image ("10%,10%,80%,80%") or a
            mask; see `Detector.with_roi`. References are cut to it, too. None for that of the checkpoint.
        **config: settings of the method, by the paper's terms; the settings in a checkpoint are the defaults.

    Returns:
        The detector.

    Raises:
        ConfigError: a name is unknown, or a value is impossible or contradicts the checkpoint.
        WeightsError: weights are missing, damaged or made for something else.
        ImageReadError: a reference image cannot be read.
        DataError: the calibration is damaged.
    """
    method = None if method is None else registry.known_name(method)
    region = as_region(roi)
    bits = common_depth(bits)
    if isinstance(calibration, str | Path) and calibration != NO_CALIBRATION:
        calibration = read_calibration(calibration)
    if isinstance(calibration, Calibration) and checkpoint is None:
        made_with = calibration.settings
        method, backbone = method or made_with["method"], backbone or made_with["backbone"]
        image_size = image_size or made_with["image_size"]
        bits = common_depth(made_with.get("bits")) if bits is None else bits
        tile = made_with.get("tile") if tile is None else tile
        config = {**made_with["config"], **config} if method == made_with["method"] else config
    found = choosing.find(method, backbone, checkpoint)
    name = choosing.method_name(method, found)
    kind = registry.method_class(name)
    settings = config if found is None else choosing.merge_settings(found, kind, config)
    chosen = build_config(kind.Config, settings, name)
    network = _find_backbone(backbone, found, chosen.activation, find_device(device), precision)
    if network.record is None:
        raise ConfigError("a backbone given as a network needs its record: set clip.record to a WeightRecord")
    fingerprint = backbone_fingerprint(network)  # before rounding to another precision
    if found is not None:
        choosing.check_backbone(found, network.record, fingerprint)
    if precision is not None:
        network.to(check_precision(precision))
    info = None if found is None else found.info
    size = _first_given(
        image_size, info.image_size if info else None, kind.default_image_size(network.record)
    )
    chosen = kind.config_at_size(chosen, network.record, size)
    try:
        built = kind(network, chosen).to(network.text_projection.device).eval()
    except ConfigError as error:
        if found is None or not (hint := choosing.backbone_hint(found, network.record.name)):
            raise
        raise ConfigError(f"{found.path} on backbone {network.record.name!r}: {error}{hint}") from error
    if found is not None:
        choosing.take_weights(built, found)
    detector = Detector(
        built,
        size,
        is_trained=found is not None,
        auxiliary_data="" if found is None else found.auxiliary_data,
        auxiliary_pictures="" if info is None else info.auxiliary_pictures,
        fingerprint=fingerprint,
        bits=info.bits if bits is None and info is not None else bits,
        tile=info.tile if tile is None and info is not None else tile,
        roi=_kept_region(found) if region is None else region,
    )
    _take_good_images(detector, found)
    if references is not None or augment_references:
        detector.set_references(references, augment=augment_references)
    if calibration is not None:
        detector.apply_calibration(None if isinstance(calibration, str) else calibration)
    elif info is not None and info.calibration is not None:
        detector.apply_calibration(Calibration.from_dict(info.calibration, "the checkpoint's calibration"))
    elif info is not None:
        detector.decision = Decision(info.threshold, info.map_threshold, class_name=info.class_name)
    return detector


def _first_given(*sizes: int | None) -> int:
    """The first size that is not None; the last one is always a number."""
    return next(size for size in sizes if size is not None)


def _kept_region(found: Checkpoint | None) -> Region | None:
    """The region of interest that a checkpoint was saved with."""
    if found is None or found.info is None or found.info.roi is None:
        return None
    try:
        return Region.from_text(found.info.roi)
    except ConfigError as error:
        raise WeightsError(f"{found.path}: {error}") from error


def _take_good_images(detector: Detector, found: Checkpoint | None) -> None:
    """Gives a detector the good images of a fitted checkpoint, if it is one."""
    if found is None or found.info is None or not found.info.good_images:
        return
    own = detector.image_size, detector.tile, detector.roi
    choosing.check_fitted(found.path, found.info, detector.method, *own)
    try:
        good = GoodImages.from_tensors(
            found.info.good_images, found.good_images, detector.method, found.info.augment_references
        )
    except WeightsError as error:
        raise WeightsError(f"{found.path}: {error}") from error
    detector.keep_good_images(good.to(detector.device))


def _find_backbone(
    backbone: str | Path | CLIP | None,
    found: Checkpoint | None,
    activation: Activation | None,
    device: torch.device,
    precision: str | None,
) -> CLIP:
    """The network on its device: a view of the user's, or loaded in a precision."""
    if isinstance(backbone, CLIP):
        return backbone.view().to(device).eval()  # a view, so that the user's own network stays as it is
    if backbone is None and found is not None:
        backbone = found.backbone
    return load_backbone(backbone, activation=activation, device=device, precision=precision)
