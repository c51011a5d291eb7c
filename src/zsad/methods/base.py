"""The contract of a method: everything that one file in this folder has to provide.

A method module holds a docstring (paper, idea, deviations), `INFO`, a frozen `Config`, optionally `WEIGHTS`,
and one subclass of `Method`. Registry, command line, contract tests, training, evaluation and export work
through this class alone.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic

import torch
from torch import Tensor, nn
from typing_extensions import TypeVar

from zsad.backbones.catalog import is_openai
from zsad.errors import ConfigError, WeightsError
from zsad.files.fields import Above, AtLeast, check_bounds
from zsad.methods.functional.checks import check_names
from zsad.methods.functional.references import remember, remember_turned
from zsad.types import Activation, PositionInterpolation  # noqa: TC001 - `check_bounds` reads the annotations

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP
    from zsad.methods.functional.references import ReferenceMemory
    from zsad.methods.training import TrainingDefaults
    from zsad.types import MethodInfo, RawOutput, WeightRecord

DEFAULT_CLASS = "object"
OPENAI_L14_336_SIZE = 336
PAPERS_IMAGE_SIZE = 518

Temperature = Annotated[float, Above(0)]
Sigma = Annotated[float, AtLeast(0)]
"""Standard deviation of a Gaussian filter, in pixels."""
Weight = Annotated[float, AtLeast(0)]


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Settings that every method has; a method's `Config` adds its own.

    Attributes:
        activation: activation of the MLPs; None for what the authors' code ran on OpenAI's weights, and for
            what the weights were trained with on all others.
        position_interpolation: how the position table is resized to another image size.

    Raises:
        ConfigError: a value breaks a bound that the annotation of its field states.
    """

    activation: Activation | None = None
    position_interpolation: PositionInterpolation = "bilinear"

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True)
class Support:
    """What images are compared with.

    Attributes:
        normal: references, (R, 3, S, S) known-normal images, resized and normalised; None without any.
        unlabelled: companions, (M, 3, S, S) images of the same folder, normal or not; None without any.
        memory: what `Method.remember` kept of the references, in place of `normal`; None: not remembered yet.
        answers: (R, S, S) maps of the method itself for references in `memory`, or (R, G, G) means of them.
        turned: whether each reference also counts in the other seven ways that quarter turns and a flip give.
    """

    normal: Tensor | None = None
    unlabelled: Tensor | None = None
    memory: ReferenceMemory | None = None
    answers: Tensor | None = None
    turned: bool = False

    def __bool__(self) -> bool:
        return self.has_references or self.unlabelled is not None

    @property
    def has_references(self) -> bool:
        """Whether there are known-normal images, or a memory of some."""
        return self.normal is not None or self.memory is not None

    def to(self, device: torch.device) -> Support:
        """The same support on another device."""
        parts = {name: getattr(self, name) for name in ("normal", "unlabelled", "memory", "answers")}
        moved = {name: part.to(device) for name, part in parts.items() if part is not None}
        return replace(self, **moved)


@dataclass(frozen=True, kw_only=True)
class State:
    """What `prepare` returns; a method adds its text features and what it keeps of the support.

    Attributes:
        map_range: smallest and largest value of a map if the support changes `Method.map_range`; else None.
        scores_jointly: whether an image's score depends on the other images of its batch if the support
            changes `Method.scores_jointly`; else None.
    """

    map_range: tuple[float, float] | None = None
    scores_jointly: bool | None = None

    @property
    def about(self) -> str:
        """A line for the user on what the companions do to the scores; empty without companions."""
        return ""


@dataclass(frozen=True)
class TextState(State):
    """The state of a method that prepares text features and nothing else.

    Attributes:
        text_features: (C, 2, E) float32, normal then abnormal.
    """

    text_features: Tensor


ConfigT = TypeVar("ConfigT", bound=MethodConfig, default=Any)
FeaturesT = TypeVar("FeaturesT", default=Any)
StateT = TypeVar("StateT", bound=State, default=Any)


class Method(nn.Module, ABC, Generic[ConfigT, FeaturesT, StateT]):
    """One anomaly-detection system on a frozen CLIP backbone.

    Shapes: B images, S pixels of one side, N = G*G patches, E joint embedding width, C class names.

    Attributes:
        backbone: the method's own view (`CLIP.view`) of a network that several methods may share; its
            parameters never require gradients.
        config: the method's frozen `Config`.
        notes: what the method could not do as it was set up, a line each, for every `Prediction`.
        WEIGHTS: records of the files of learnt weights that the authors published.
        WEIGHTS_NOTE: sentence about the authors' files if `WEIGHTS` lists none; "" if there are none.
        OFFICIAL_FILES: names that the authors' code gives its files of learnt weights, if there are several.
        SHAPE_FIELDS: the `Config` fields that decide the shapes of the learnt tensors; a setting that
            contradicts a checkpoint in one of them is refused, and any other setting overrides it.
        AUTHORS_ACTIVATION: what the authors' code ran on OpenAI's weights, whatever those were trained with;
            None for what the record of the weights says.
        NATIVE_SIZE_KEEPS_ACTIVATION: whether the authors' code changed the activation only for images of
            another size than the weights were made for.
        PAPER_IMAGE_SIZE: pixels of one side at which the paper runs OpenAI's ViT-L/14-336; None for 518 if
            the method learns something, and for the size of the weights if not.
        WEIGHTS_OF: the method whose learnt weights this one takes as its own; None for no other.
        MOST_COMPANIONS: largest number of companions that `prepare` takes, after which each image is scored
            by itself; 0 for a method that takes none.
        FEATURES: the dataclass of (B, ...) tensors that `features_for_loss` returns and training can keep on
            disk; None if learnt tensors enter the image encoder. `cached_features` may tell settings apart.
        FEATURE_FIELDS: the `Config` fields that these depend on, besides those of `MethodConfig`.
        IMAGE_TERMS: terms of `loss` that need no masks; a method without any cannot train on image labels.
        TRAINING: how the authors train it; None for a method without training.
        EXPORT: why the method, with its default settings, cannot be exported as a graph, in a line; "" if it
            can. `why_not_exportable` knows about other settings.
        LOSS_IS_MEAN: whether each term of `loss`, and its gradient, is a mean over the images or does not
            depend on them, so that several devices can share the images of a step.
    """

    INFO: ClassVar[MethodInfo]
    Config: ClassVar[type[MethodConfig]]
    WEIGHTS: ClassVar[tuple[WeightRecord, ...]] = ()
    WEIGHTS_NOTE: ClassVar[str] = ""
    OFFICIAL_FILES: ClassVar[tuple[str, ...]] = ()
    SHAPE_FIELDS: ClassVar[frozenset[str]] = frozenset()
    AUTHORS_ACTIVATION: ClassVar[Activation | None] = None
    NATIVE_SIZE_KEEPS_ACTIVATION: ClassVar[bool] = False
    PAPER_IMAGE_SIZE: ClassVar[int | None] = None
    WEIGHTS_OF: ClassVar[str | None] = None
    MOST_COMPANIONS: ClassVar[int] = 0
    FEATURES: ClassVar[type[Any] | None] = None
    FEATURE_FIELDS: ClassVar[frozenset[str]] = frozenset()
    TRAINING: ClassVar[TrainingDefaults | None] = None
    IMAGE_TERMS: ClassVar[frozenset[str]] = frozenset()
    EXPORT: ClassVar[str] = ""
    LOSS_IS_MEAN: ClassVar[bool] = True
    notes: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Takes `INFO`, `Config` and `WEIGHTS` from the module that defines the method."""
        super().__init_subclass__(**kwargs)
        module = sys.modules[cls.__module__]
        for name in ("INFO", "Config", "WEIGHTS"):
            if name not in vars(cls) and hasattr(module, name):
                setattr(cls, name, getattr(module, name))

    def __init__(self, backbone: CLIP, config: ConfigT) -> None:
        super().__init__()
        activation = config.activation or self.activation_for(backbone.record)
        self.backbone = backbone.view(activation, config.position_interpolation).requires_grad_(False)
        self.config = config

    @classmethod
    def activation_for(cls, record: WeightRecord | None, image_size: int | None = None) -> Activation | None:
        """The activation to run when the user names none.

        On OpenAI's own weights it is what the authors' code ran, right or wrong, because their published
        numbers and weights rest on it; on all others it is what the weights were trained with.

        Args:
            record: record of the backbone's weights; None for random weights.
            image_size: pixels of one side of the images; None for another size than that of the weights, as
                in the papers.

        Returns:
            None to leave the network as it is.
        """
        if record is None:
            return None
        is_kept = cls.NATIVE_SIZE_KEEPS_ACTIVATION and image_size == record.image_size
        if cls.AUTHORS_ACTIVATION is not None and is_openai(record) and not is_kept:
            return cls.AUTHORS_ACTIVATION
        return record.activation

    @classmethod
    def config_at_size(cls, config: ConfigT, record: WeightRecord, image_size: int) -> ConfigT:
        """The settings with the activation filled in where it depends on the size of the images.

        It is then saved with the learnt tensors, and does not change when they are used at another size.

        Args:
            config: settings from the user; an activation in them is kept.
            record: record of the backbone's weights.
            image_size: pixels of one side of the images.
        """
        if config.activation is not None or not (cls.NATIVE_SIZE_KEEPS_ACTIVATION and is_openai(record)):
            return config
        return replace(config, activation=cls.activation_for(record, image_size))

    @classmethod
    def default_image_size(cls, record: WeightRecord) -> int:
        """Pixels a side by default: the weights' own; with OpenAI's ViT-L/14-336 the learnt papers' 518."""
        papers = cls.PAPER_IMAGE_SIZE or (PAPERS_IMAGE_SIZE if cls.INFO.needs_training else None)
        if papers is not None and is_openai(record) and record.image_size == OPENAI_L14_336_SIZE:
            return papers
        return record.image_size

    @abstractmethod
    def prepare(self, classes: Sequence[str], support: Support | None = None) -> StateT:
        """Text features and features of the support, computed once and used for many images.

        Args:
            classes: one class name for all images, or one for each image of the batch that follows.
            support: references are in it only if `INFO.references` is "own", because the detector adds the
                general rule itself; `unlabelled` holds companions only if `MOST_COMPANIONS` is above 0.

        Returns:
            A `State`; its rows match `classes`, and a single row serves a whole batch.
        """

    def remember(self, images: Tensor) -> ReferenceMemory:
        """What the method keeps of known-normal images; by default the patches of the general rule.

        Args:
            images: (R, 3, S, S) resized and normalised images.
        """
        return remember(self.backbone.visual, images)

    def memory_of(self, support: Support | None) -> ReferenceMemory | None:
        """The memory of the references of a support, made if need be; None without references."""
        if support is None or support.memory is not None or support.normal is None:
            return None if support is None else support.memory
        images = support.normal
        return remember_turned(self.remember, images) if support.turned else self.remember(images)

    def companion_distances(self, features: FeaturesT, state: StateT) -> Tensor | None:
        """How badly each patch matches the companions, for the general rule for references.

        Args:
            features: features of B images.
            state: state with companions, or without.

        Returns:
            (B, N) distances in units of what is usual between companions, less 1, times the trust in them;
            None for no companions, and for a method that takes none.
        """
        return None

    @abstractmethod
    def features(self, images: Tensor) -> FeaturesT:
        """The part that does not depend on what is learnt, so that training can cache it.

        Args:
            images: (B, 3, S, S) resized and normalised images.

        Returns:
            The method's own frozen `Features`.
        """

    @abstractmethod
    def score(self, features: FeaturesT, state: StateT) -> RawOutput:
        """Scores (B,) and maps (B, S, S) from features and state; pure and exportable."""

    def score_beside_references(self, features: FeaturesT, state: StateT) -> RawOutput:
        """`score` without what distances to references say better, for the general rule to join with them."""
        return self.score(features, state)

    @property
    def map_range(self) -> tuple[float, float]:
        """Smallest and largest value of a map without support; the fixed colour scale."""
        return (0.0, 1.0)

    @property
    def scores_jointly(self) -> bool:
        """Whether an image's score depends on the other images of its batch, without support."""
        return self.INFO.scores_batch_jointly

    @property
    def why_not_exportable(self) -> str:
        """Why the method, as it is set up, cannot be exported as a graph, in a line; "" if it can."""
        return self.EXPORT

    def loss(
        self, images: Tensor, masks: Tensor, labels: Tensor, classes: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """The named terms whose sum training minimises.

        Args:
            images: (B, 3, S, S) resized and normalised images.
            masks: (B, S, S) or (B, 1, S, S) in {0, 1}, 1 where anomalous.
            labels: (B,) in {0, 1}, 1 for an anomalous image.
            classes: class names as for `prepare`; None means "object" for all.

        Returns:
            Scalar tensors by name.

        Raises:
            ConfigError: the method has nothing to learn.
        """
        return self.loss_from_features(self.features_for_loss(images), masks, labels, classes)

    def features_for_loss(self, images: Tensor) -> Any:
        """What `loss_from_features` reads of (B, 3, S, S) images; by default what `score` reads."""
        return self.features(images)

    @classmethod
    def cached_features(cls, settings: Mapping[str, Any]) -> type[Any] | None:
        """The dataclass of `features_for_loss` with some settings, by name; None if learnt tensors enter."""
        return cls.FEATURES

    def loss_from_features(
        self, features: FeaturesT, masks: Tensor, labels: Tensor, classes: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """`loss`, with the frozen part already computed (the feature cache enters here)."""
        raise ConfigError(f"{self.INFO.name} has nothing to train; `zsad methods` shows which methods do")

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Name and parameter of everything that is learnt; empty for training-free methods."""
        yield from ()

    @classmethod
    def training_defaults(cls, settings: Mapping[str, Any]) -> TrainingDefaults | None:
        """How the authors train it with the user's settings, by name; tells two stages apart."""
        return cls.TRAINING

    def learned(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Name and parameter of everything that all stages of the training learn."""
        yield from self.trainable()

    def learned_state(self) -> dict[str, Tensor]:
        """The tensors that `Detector.save` writes: exactly the parameters of `learned`."""
        return {name: parameter.detach().clone() for name, parameter in self.learned()}

    def load_learned(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `learned_state` gave.

        Raises:
            WeightsError: names or shapes differ; the message lists them.
        """
        self._take(dict(self.learned()), state)

    @torch.no_grad()
    def _take(self, parameters: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]) -> None:
        """Copies tensors into parameters of the same names and shapes."""
        check_names(self.INFO.name, expected=parameters, found=state)
        for name, parameter in parameters.items():
            parameter.copy_(state[name])

    def load_official(self, state_dict: Mapping[str, Any]) -> None:
        """Takes the file that the method's authors published, as `torch.load(weights_only=True)` returns it.

        Raises:
            WeightsError: the layout is not the authors'; the message lists missing and unexpected names.
        """
        raise WeightsError(
            self.WEIGHTS_NOTE
            or f"the authors of {self.INFO.title} publish no weights; load it without checkpoint="
        )

    @classmethod
    def official_config(cls, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """The `Config` fields that an authors' file determines; a contradicting setting is refused."""
        return {}
