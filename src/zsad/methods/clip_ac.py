"""CLIP-AC: plain CLIP with hand-written prompts, the baseline of every table.

Radford et al., ICML 2021, https://arxiv.org/abs/2103.00020; as a baseline of anomaly classification ("AC")
Jeong et al., CVPR 2023 (WinCLIP), https://arxiv.org/abs/2303.14814.

Idea: nothing is trained and nothing is changed in the network. A class name is put into prompts about a
normal and about an anomalous object; each kind becomes one text vector. The score of the image is the
anomalous probability of its class token. The map applies the same comparison to the patch tokens of the last
layer, brought into the joint space like the class token; CLIP was never trained for that, which is why such
maps are poor and all the other methods exist.

`prompt_set` says which baseline it is:

* "imagenet" (default): normal and anomalous in the 80 templates of CLIP's ImageNet classifier; the
  column CLIP-AC of AnomalyCLIP's tables, and CLIP-AC with prompt ensemble in WinCLIP's;
* "two_words": "a photo of a normal X" against "a photo of an anomalous X"; the column CLIP;
* "winclip": 7 normal and 4 anomalous state words in 22 templates: WinCLIP's image score without windows;
* "april_gan": 7 and 5 state words in 35 templates: APRIL-GAN without its adapters.

What the papers leave open, and the choice here:

* the wording of "two_words", and that "imagenet" is what the tables call CLIP-AC, are from memory of the
  papers, not read again; that CLIP means two single prompts and an unchanged image encoder, AnomalyCLIP's
  authors confirm (their repository, issue 25);
* the vectors of the prompts are brought to length 1, averaged, and the mean is brought to length 1, as in
  CLIP's own zero-shot classifier;
* the temperature is the network's own (0.01 for most published weights). The order of images by score does
  not depend on it;
* the map is smoothed with sigma 4, which AnomalyCLIP's evaluation does to its own maps;
* images are taken at the size that the weights were made for; AnomalyCLIP's tables run ViT-L/14-336 at
  `image_size=518`, with `position_interpolation="bilinear"`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from zsad.methods.base import Method, MethodConfig, Sigma, Support, Temperature, TextState
from zsad.methods.functional.image_score import ImageScore, image_score_for, image_scores
from zsad.methods.functional.maps import abnormal_map
from zsad.methods.functional.patches import JointFeatures, last_layer_features
from zsad.methods.functional.similarity import similarity_softmax
from zsad.methods.prompts.state_words import StateWords, own_prompts
from zsad.methods.prompts.templates import TextEnsemble, prompt_set
from zsad.types import MethodInfo, PositionInterpolation, RawOutput

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP

# WinCLIP's prompt set has the name that WinCLIP's own `Config` gives it.
NAME_IN_LIBRARY = {"winclip": "paper"}

INFO = MethodInfo(
    name="clip_ac",
    title="CLIP-AC",
    year=2021,
    paper="https://arxiv.org/abs/2103.00020",
    code="https://github.com/openai/CLIP",
    needs_training=False,
    uses_class_names=True,
    scores_batch_jointly=False,
)


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    """Settings.

    Attributes:
        prompt_set: "imagenet", "two_words", "winclip" or "april_gan", see the module's description.
        temperature: temperature of the softmax over normal and anomalous; None for the network's own.
        sigma: standard deviation of the Gaussian filter over the map, in pixels; 0 switches it off.
        state_words: the user's own words in place of the set's state words and templates; None for the set's.
        image_score: what scores an image, "class_token" as CLIP does, or "both" for the mean logit of the
            class token and of the most anomalous 5 % of the patches; None for "both" on `tiny` and
            "class_token" on all other weights.
    """

    prompt_set: Literal["imagenet", "two_words", "winclip", "april_gan"] = "imagenet"
    temperature: Temperature | None = None
    sigma: Sigma = 4.0
    state_words: StateWords | None = None
    image_score: ImageScore | None = None
    position_interpolation: PositionInterpolation = "bicubic_antialias"


class ClipAC(Method[Config, JointFeatures, TextState]):
    """See the module's description.

    Attributes:
        temperature: temperature of the softmax; the network's own unless the settings name one.
    """

    def __init__(self, backbone: CLIP, config: Config) -> None:
        image_score = image_score_for(config.image_score, backbone.record)
        super().__init__(backbone, replace(config, image_score=image_score))
        self.image_score = image_score
        own = 1 / float(backbone.logit_scale.detach().float().exp())
        self.temperature = own if config.temperature is None else config.temperature
        name = NAME_IN_LIBRARY.get(config.prompt_set, config.prompt_set)
        self.text = TextEnsemble(self.backbone, own_prompts(prompt_set(name), config.state_words))

    @torch.no_grad()
    def prepare(self, classes: Sequence[str], support: Support | None = None) -> TextState:
        """The text features of the classes."""
        return TextState(self.text.encode(classes))

    @torch.no_grad()
    def features(self, images: Tensor) -> JointFeatures:
        """Class token and patches of the last layer."""
        return last_layer_features(self.backbone.visual, images)

    def score(self, features: JointFeatures, state: TextState) -> RawOutput:
        """Anomalous probability of the image; that of the patches, upsampled and smoothed."""
        image = similarity_softmax(features.image_features, state.text_features, self.temperature)
        patches = similarity_softmax(features.patch_features, state.text_features, self.temperature)
        size = features.image_size(self.backbone.config.vision.patch_size)
        scores = image_scores(image, patches, self.image_score)
        return RawOutput(scores, abnormal_map(patches, [1.0], size, self.config.sigma))
