"""Automatic prompts and grounding: finds the product, crops it, and compares it with sentences.

Cheung et al., "Automatic Prompt Generation and Grounding Object Detection for Zero-Shot Image Anomaly
Detection", APSIPA ASC 2024, https://arxiv.org/abs/2411.19220; the authors published no code. The paper
names no system; `grounding` is zsad's name.

Idea: three frozen models, nothing is trained. A language model (GPT-3 in the paper) writes sentences about
the look of a normal and of an anomalous product. Grounding DINO, asked with the class name alone, finds the
product in the image, which takes the background away. CLIP compares the cropped product with the two kinds
of sentences.

This is a reconstruction. Confirmed, from the abstract and a review: the three models; two separate requests
for sentences, with the class name in them; the detector is asked with the class name only; CLIP sees the
crop; the decision is about images, on MVTec AD and VisA. Ours, because nothing is published about it:

* the sentences: zsad ships five normal and five anomalous ones for each class of MVTec AD and VisA, and
  general ones for other names. `prompts` takes a JSON file of your own, and `zsad.prompts.write_prompts`
  has a language model write one. The method itself never asks a language model;
* the boxes: the best one above `box_threshold`, if it covers at least 5 % of the image, enlarged by
  `margin`;
* the crop: cut out of the image that has been resized for the network, and resized to the same size;
* the score: the vectors of the sentences are brought to length 1 and averaged for each kind; the score is
  the anomalous probability of the crop's class token at CLIP's own temperature of 0.01;
* the map, which the paper does not have: the patches of the value-value stream (AnomalyCLIP, section 3.3)
  of the crop are compared with the same vectors at temperature 0.07. Layers are averaged, smoothed and put
  back into the box; outside of it the map has its lowest value.

`detector` says who finds the product:

* "grounding-dino" (default) needs the package `transformers` (`pip install 'zsad[grounding]'`) and weights
  on this machine: `hf download IDEA-Research/grounding-dino-tiny`, or a folder in `detector_weights`.
  Without them a warning says so, and "foreground" takes its place; `config.detector`, and with it a saved
  file, then says "foreground";
* "foreground" needs no network: the largest region whose colour differs from the border of the image;
* "none" takes the whole image.

In Python, `method.detector` may be replaced by any callable from images (B, 3, S, S) in [0, 1] and B class
names to boxes (B, 4): left, top, right, bottom in pixels, NaN for the whole image. Its boxes are taken as
they are.

No numbers are published that could be read, so that none are quoted.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from torch import Tensor

from zsad.errors import ConfigError, MissingExtraError, WeightsError, ZsadError, one_line
from zsad.files.fields import AtLeast, AtMost, Share
from zsad.methods.base import Method, MethodConfig, Sigma, Support, Temperature, TextState
from zsad.methods.functional.crops import crop, put_back, whole_pixels
from zsad.methods.functional.foreground import enlarged, foreground_boxes
from zsad.methods.functional.grounding_dino import Detector, load_grounding_dino
from zsad.methods.functional.maps import abnormal_map
from zsad.methods.functional.patches import (
    first_value_value_layer,
    joint_features,
    layers_to_use,
)
from zsad.methods.functional.similarity import similarity_softmax
from zsad.methods.prompts.templates import TextEnsemble
from zsad.methods.prompts.written import ClassPrompts, WrittenPrompts, read_prompts
from zsad.types import MethodInfo, PositionInterpolation, RawOutput

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP

MAP_TEMPERATURE = 0.07

INFO = MethodInfo(
    name="grounding",
    title="Automatic prompts and grounding",
    year=2024,
    paper="https://arxiv.org/abs/2411.19220",
    code=None,
    needs_training=False,
    uses_class_names=True,
    scores_batch_jointly=False,
    is_reconstruction=True,
    extra="grounding",
)


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    """Settings; the paper names none of them.

    Attributes:
        detector: "grounding-dino", "foreground" or "none", see the module's description.
        detector_weights: folder of a Grounding DINO, or its name on the Hugging Face hub.
        box_threshold: probability that the best word of a box has to exceed.
        text_threshold: probability that a word of the class name has to exceed for a box to count.
        margin: share of a found box by which it is enlarged at each side.
        prompts: path of a JSON file with sentences by class name, as `zsad.prompts.write_prompts` writes it,
            or its content; None for the sentences that ship with zsad.
        temperature: temperature of the softmax over normal and anomalous for the score.
        features_list: layers of the image encoder whose patches make the map; None for the end of each of its
            quarters.
        sigma: standard deviation of the Gaussian filter over the map of the crop, in pixels; 0 switches it
            off.
    """

    detector: Literal["grounding-dino", "foreground", "none"] = "grounding-dino"
    detector_weights: str = "IDEA-Research/grounding-dino-tiny"
    box_threshold: Share = 0.35
    text_threshold: Share = 0.25
    margin: Annotated[float, AtLeast(0), AtMost(1)] = 0.05
    prompts: str | Mapping[str, ClassPrompts] | None = None
    temperature: Temperature = 0.01
    features_list: tuple[int, ...] | None = None
    sigma: Sigma = 4.0
    position_interpolation: PositionInterpolation = "bicubic_antialias"


@dataclass(frozen=True)
class NamedState(TextState):
    """Text features, and the class names that the detector is asked with.

    Attributes:
        class_names: C names, one for all images or one for each.
    """

    class_names: tuple[str, ...]


class Grounding(Method[Config, Tensor, NamedState]):
    """See the module's description.

    Attributes:
        detector: finds the boxes of the products; may be replaced.
        features_list: layers whose patches make the map.
        notes: that another detector takes the place of Grounding DINO, if so.
    """

    def __init__(self, backbone: CLIP, config: Config) -> None:
        own = read_prompts(config.prompts) if isinstance(config.prompts, str) else config.prompts
        super().__init__(backbone, replace(config, prompts=own))
        layers = self.backbone.config.vision.layers
        self.features_list = layers_to_use(config.features_list, layers)
        self._value_value_from = first_value_value_layer(None, layers)
        self.text = TextEnsemble(self.backbone, WrittenPrompts(own))
        self.detector: Detector = self._chosen_detector()

    @property
    def why_not_exportable(self) -> str:
        """Another network, or a function of the user, that finds the boxes; "" for zsad's own detectors."""
        own = getattr(self.detector, "args", (None,))[0]
        if self.detector is _whole_images or own is _foreground:
            return ""
        return (
            "another network finds the boxes; detector=foreground or none (--set detector=foreground) exports"
        )

    @torch.no_grad()
    def prepare(self, classes: Sequence[str], support: Support | None = None) -> NamedState:
        """The text features of the classes, and their names."""
        return NamedState(self.text.encode(classes), tuple(classes))

    def features(self, images: Tensor) -> Tensor:
        """The images themselves: the crop depends on the class name, which only the state has."""
        return images

    @torch.no_grad()
    def score(self, features: Tensor, state: NamedState) -> RawOutput:
        """Anomalous probability of the crop's class token; that of its patches, inside the box.

        Raises:
            ConfigError: the detector failed or returned something other than boxes.
        """
        size = features.shape[-1]
        boxes = whole_pixels(self._boxes(features, state.class_names), size)
        visual, layers = self.backbone.visual, self.features_list
        seen = visual(crop(features, boxes), value_taps=layers, value_value_from=self._value_value_from)
        image_features = visual.project(seen.class_token).float()
        patch_features = joint_features(visual, seen, layers).patch_features
        image = similarity_softmax(image_features, state.text_features, self.config.temperature)
        patches = similarity_softmax(patch_features, state.text_features, MAP_TEMPERATURE)
        equal = [1 / len(layers)] * len(layers)
        return RawOutput(image[:, 1], put_back(abnormal_map(patches, equal, size, self.config.sigma), boxes))

    def _boxes(self, images: Tensor, class_names: Sequence[str]) -> Tensor:
        """(B, 4) from the detector, for images as the network takes them."""
        # One name serves a whole graph, whose detectors read none.
        count = 1 if torch.compiler.is_compiling() or len(class_names) > 1 else images.shape[0]
        names = tuple(class_names) * count
        record = self.backbone.record
        pixels = images.float()
        if record is not None:
            mean, std = (pixels.new_tensor(each)[:, None, None] for each in (record.mean, record.std))
            pixels = (pixels * std + mean).clamp(0, 1)
        try:
            boxes = torch.as_tensor(self.detector(pixels, names), device=images.device)
        except ZsadError:
            raise
        except Exception as error:  # a user's detector may raise anything
            raise ConfigError(
                f"the detector of grounding failed: {one_line(error)}; set detector=none for whole images"
            ) from error
        if boxes.shape != (images.shape[0], 4):
            raise ConfigError(
                f"the detector of grounding must return boxes ({images.shape[0]}, 4), got "
                f"{tuple(boxes.shape)}"
            )
        return boxes

    def _chosen_detector(self) -> Detector:
        """The detector of the settings, or the foreground crop with a note if Grounding DINO is not here."""
        config = self.config
        if config.detector == "grounding-dino":
            try:
                dino = load_grounding_dino(
                    config.detector_weights, config.box_threshold, config.text_threshold
                )
                return partial(_enlarged_boxes, dino, config.margin)
            except (WeightsError, MissingExtraError) as error:
                note = f"grounding crops to the foreground instead of asking Grounding DINO: {error}"
                self.notes = (note,)
                self.config = replace(config, detector="foreground")
                warnings.warn(note, stacklevel=4)
        if self.config.detector == "none":
            return _whole_images
        return partial(_enlarged_boxes, _foreground, config.margin)


def _enlarged_boxes(detector: Detector, margin: float, images: Tensor, names: Sequence[str]) -> Tensor:
    """The boxes of a detector, wider by a share of their size at each side."""
    return enlarged(detector(images, names), margin)


def _foreground(images: Tensor, names: Sequence[str]) -> Tensor:
    """The boxes of `foreground_boxes`, whatever the products are called."""
    return foreground_boxes(images)


def _whole_images(images: Tensor, names: Sequence[str]) -> Tensor:
    """No box for any image."""
    return images.new_full((images.shape[0], 4), torch.nan, dtype=torch.float32)
