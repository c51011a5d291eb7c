"""Describes a model for `GET /v1/models`: a detector, an exported bundle, or anything else that predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zsad.deploy.server.models import scores_jointly

if TYPE_CHECKING:
    from zsad.deploy.server.models import Model


ALONE = (
    "The method compares images with each other; here each is scored by itself, so that an answer does not "
    "depend on who else asks. Fit it to good images for its full strength."
)


def describe(model: Model) -> dict[str, Any]:
    """What clients may know about a model, by the names of `ModelAnswer`."""
    predictor: Any = model.predictor
    known: dict[str, Any] = {
        "method": None,
        "backbone": None,
        "class_name": None,
        "image_size": getattr(predictor, "image_size", None),
        "map_range": tuple(getattr(predictor, "map_range", (0.0, 1.0))),
        "threshold": getattr(predictor, "threshold", None),
        "map_threshold": getattr(predictor, "map_threshold", None),
        "false_alarm_rate": None,
        "confidence": None,
        "promise": [],
        "warnings": [],
        "normal_scores": [],
        "left_out": 0,
        "references": 0,
        "tile": getattr(predictor, "tile", None),
        "runner": "python",
        "precision": None,
        "can_fit": can_fit(predictor),
    }
    if hasattr(predictor, "bundle"):
        known |= _of_bundle(predictor.bundle)
    elif hasattr(predictor, "scoring_settings"):
        known |= _of_detector(predictor)
    if scores_jointly(predictor):
        known["warnings"] = [*known["warnings"], ALONE]
    return {"name": model.name, **known}


def can_fit(predictor: Any) -> bool:
    """Whether a predictor can be fitted to good images; an exported bundle cannot."""
    return hasattr(predictor, "fit")


def cannot_fit(predictor: Any, *, allow_fit: bool) -> str | None:
    """Why a client cannot fit a model to good images, in one line; None if it can."""
    if not can_fit(predictor):
        return (
            "This model is an exported bundle, which learns no more: fit the detector (zsad fit) and export "
            "it again."
        )
    return None if allow_fit else "Learning is off on this server: start it with zsad serve --allow-fit."


def _of_detector(detector: Any) -> dict[str, Any]:
    from zsad.detector.calibration.wording import describe as describe_calibration

    calibration = detector.calibration
    found: dict[str, Any] = {
        "method": detector.method.INFO.name,
        "backbone": detector.record.name,
        "class_name": detector.decision.class_name,
        "references": len(detector.reference_fingerprints),
        "precision": str(detector.method.backbone.text_projection.dtype).removeprefix("torch."),
    }
    if calibration is not None:
        found |= {
            "false_alarm_rate": calibration.false_alarm_rate,
            "confidence": calibration.confidence,
            "promise": describe_calibration(calibration),
            "warnings": list(calibration.warnings),
            "normal_scores": list(calibration.normal_scores),
            "left_out": calibration.left_out,
        }
    return found


def _of_bundle(bundle: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "method": bundle.method,
        "backbone": bundle.backbone,
        "class_name": bundle.class_name or bundle.decision_class_name,
        "image_size": bundle.image_size,
        "map_range": bundle.map_range,
        "threshold": bundle.threshold,
        "map_threshold": bundle.map_threshold,
        "references": bundle.references,
        "tile": bundle.tile,
        "runner": bundle.runner,
        "precision": bundle.precision,
        "normal_scores": [] if bundle.score_scale is None else list(bundle.score_scale.normal_scores),
        "left_out": 0 if bundle.calibration is None else bundle.calibration["left_out"],
    }
    if bundle.promise is not None:
        found |= {
            "false_alarm_rate": bundle.promise.rate,
            "confidence": bundle.promise.confidence,
            "promise": list(bundle.promise.lines),
            "warnings": list(bundle.promise.warnings),
        }
    return found
