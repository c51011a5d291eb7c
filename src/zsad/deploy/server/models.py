"""The models that a server offers by name, and their replacement while requests go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from zsad.deploy.server.refusals import Refusal, later
from zsad.errors import ConfigError, ImageReadError, unknown_name

if TYPE_CHECKING:
    from zsad.types import Prediction

DEFAULT_NAME = "default"
INPUT_PIXELS_AT_ONCE = 3_300_000
"""Pixels of network inputs in a batch: 32 of 320 pixels a side, 12 of 518."""

MOST_AT_ONCE = 32
_WARM_UP_SIDE = 64  # pixels


class Predictor(Protocol):
    """What a server works with: `zsad.Detector`, an exported bundle, or anything alike."""

    def predict(self, inputs: list[Any], classes: str | None = None, /) -> Sequence[Prediction]:
        """Predictions for images of a class, in their order; None for the class name of the model."""
        ...


Source = Predictor | Callable[[], Predictor]
"""A predictor, or a function that loads it."""


@dataclass(frozen=True, eq=False)
class Model:
    """A predictor under the name that requests give.

    Attributes:
        name: name of the model.
        predictor: what scores.
        max_batch: largest number of images that it scores at once.
    """

    name: str
    predictor: Predictor = field(repr=False)
    max_batch: int

    @property
    def bits(self) -> int | None:
        """Depth at which 16-bit files are read; None for what each file states."""
        return getattr(self.predictor, "bits", None)

    @property
    def is_tiled(self) -> bool:
        """Whether large images are cut into tiles, and may therefore be larger."""
        return getattr(self.predictor, "tile", None) is not None

    def predict(self, images: list[Image.Image], class_name: str | None = None) -> Sequence[Prediction]:
        """Predictions for RGB images of a class; None for the class name of the model."""
        if class_name is None:
            return self.predictor.predict(images)
        return self.predictor.predict(images, class_name)


class Models:
    """The models of a server; the first one is the default.

    Attributes:
        default: name of the model that answers where a request names none.
        is_ready: whether all models are loaded.
    """

    def __init__(self, sources: Mapping[str, Source], max_batch: int | None = None) -> None:
        """Takes the models, which `load` loads.

        Args:
            sources: predictors, or functions that load them, by name.
            max_batch: largest number of images at once; None chooses by the size of the network's input.

        Raises:
            ConfigError: there is no model, or a name has no visible character.
        """
        if not sources:
            raise ConfigError("there is no model to serve: give one, as in zsad serve --bundle line3-onnx")
        for name in sources:
            if not name.strip() or not name.isprintable():
                raise ConfigError(f"the name of a model must be printable and not empty, got {name!r}")
        self.default = next(iter(sources))
        self.is_ready = False
        self._sources = dict(sources)
        self._max_batch = max_batch
        self._models: dict[str, Model] = {}

    def load(self) -> None:
        """Loads all models; takes as long as that takes.

        Raises:
            ConfigError: a model cannot score an image by itself, or has not been trained.
            ZsadError: a model cannot be loaded.
        """
        for name, source in self._sources.items():
            predictor = source if hasattr(source, "predict") else source()
            self._models[name] = self._model(name, predictor)
            _warm_up(self._models[name])
        self.is_ready = True

    def all(self) -> list[Model]:
        """All models that are loaded, the default first."""
        return [self._models[name] for name in self._sources if name in self._models]

    def find(self, name: str | None) -> Model:
        """The model of a name, or the default.

        Raises:
            Refusal: 404, there is none of that name; 503, the models are still being loaded.
        """
        if name is not None and name not in self._sources:
            raise Refusal(404, str(unknown_name("model", name, self._sources)))
        if not self.is_ready:
            raise later(503, "the models are being loaded; send the request again", 2)
        return self._models[name or self.default]

    def replace(self, model: Model, predictor: Predictor) -> Model:
        """Puts another predictor in a model's place, for all requests from now on."""
        self._models[model.name] = self._model(model.name, predictor)
        return self._models[model.name]

    def _model(self, name: str, predictor: Predictor) -> Model:
        side = getattr(predictor, "image_size", None)
        chosen = MOST_AT_ONCE if side is None else INPUT_PIXELS_AT_ONCE // side**2
        most = getattr(predictor, "most_at_once", MOST_AT_ONCE)
        at_once = self._max_batch or max(1, min(most, MOST_AT_ONCE, chosen))
        # In a batch, the answer would depend on who else asks at the moment.
        return Model(name, predictor, 1 if scores_jointly(predictor) else at_once)


def scores_jointly(predictor: Any) -> bool:
    """Whether a predictor compares the images of a batch with each other."""
    return bool(getattr(predictor, "scores_jointly", False))


def _warm_up(model: Model) -> None:
    """Scores a grey image, so that the first client need not wait for what is made once.

    Raises:
        ConfigError: the model refuses to score any image.
    """
    with suppress(ImageReadError):  # a region of interest may lie outside of this image
        model.predict([Image.new("RGB", (_WARM_UP_SIDE, _WARM_UP_SIDE), (128, 128, 128))])
