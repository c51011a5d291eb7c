"""Bayes-PFL: Bayesian prompt flow learning for zero-shot anomaly detection.

Qu et al., CVPR 2025, https://arxiv.org/abs/2503.10080; code https://github.com/xiaozhen228/Bayes-PFL.

Idea: instead of one learnt prompt, learn distributions of prompts. A bank holds three pairs of learnt words
before the class name: context vectors, which both prompts of a pair share, and state vectors of a normal and
of an abnormal object. Samples of three distributions move them: a shift of the context that depends on the
image, and one shift for each state that does not. Each distribution is a Gaussian, computed by a small
network, whose samples pass through planar flows. The prompts attend to the patches of four layers (residual
cross attention), and each pair gives a probability for each pixel and for the image. The result is the mean
over pairs, samples and layers.

Training has two stages, one `zsad train` run each. `--set stage=1` learns the bank, the distributions, the
attention and the maps. `--set stage=2 --checkpoint FIRST`, with the file of the first stage, learns the score
of the image, for which the patches are pooled and added to CLIP's image feature.

What the released code does and the paper does not say (kept, because published weights depend on it):

* the encoder of a distribution returns exp(v / 2), and the sampler takes that for the variance, so that the
  standard deviation is exp(v / 4);
* the flows need not be invertible, and the logarithms of their determinants are divided by the batch size
  even for the distributions that do not depend on the image;
* normal and abnormal state share one encoder; a decoder exists that no loss uses (ignored in the files);
* the attention is scaled by the full width, not by that of a head, and has no output projection;
* focal and Dice losses are taken over the pixels of the whole batch, so that devices cannot share a step;
* on OpenAI's weights both encoders run with the erf GELU, although they were trained with QuickGELU, and the
  position table is resized bicubically with antialiasing.

Deviations from the released code:

* the authors draw context noise for each image, so that a score depends on the order of the images; here
  noise is drawn once from `seed` and is the same for every image. `sample_num=0` takes the means instead, and
  `BayesPFL.set_draws` puts noise in from outside;
* the published score of an image is scaled by the smallest and largest value of its category, and reads 20
  pixels of the map for seven categories chosen by hand and 2000 for all others: `image_score="joint"`, with
  one `top_k` for all. The default, "prob", is the probability alone; "mixed" adds the map without scaling;
* the authors stop early by labels of the *test* dataset, by pixel AP in stage 1 and image AP in stage 2; here
  five categories of the training data are held out instead;
* a bias of the pooling that its softmax cancels is ignored;
* on a backbone without 24 layers, the ends of the four quarters of the image encoder give the patches.

The authors' files (`train_visa.pth`, `train_mvtec.pth`, both of stage 2) are on Google Drive, which programs
cannot fetch from: follow the link on the repository's page and give the file as `checkpoint=`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.errors import ConfigError
from zsad.files.fields import AtLeast
from zsad.methods.base import DEFAULT_CLASS, Method, MethodConfig, Sigma, State, Support
from zsad.methods.functional.batch_losses import balanced_focal_loss, batch_dice_loss, orthogonality
from zsad.methods.functional.checks import check_masks
from zsad.methods.functional.maps import gaussian_filter, mean_of_largest, min_max, to_grid, upsample
from zsad.methods.functional.patches import layers_to_use
from zsad.methods.functional.raw_patches import IMAGES_AT_ONCE, RawFeatures, raw_features, slices
from zsad.methods.prompts.draws import Draws
from zsad.methods.prompts.flow_file import check_layers, official_parameters, official_settings
from zsad.methods.prompts.flow_network import PromptFlowNetwork
from zsad.methods.prompts.prompt_bank import class_prompts
from zsad.methods.training import TrainingDefaults
from zsad.types import MethodInfo, PositionInterpolation, RawOutput

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP

DIVERGENCE_WEIGHT = 0.01
DIVERGENCES = ("divergence_context", "divergence_normal", "divergence_abnormal")
LEARNT_IN_STAGE_2 = ("class_mapping.", "image_mapping.", "fuse.")
ONLY_IN_STAGE_2 = ("image_mapping.", "fuse.")
SLOWLY_LEARNT = ("context_encoder.", "state_encoder.", "RCA.", *LEARNT_IN_STAGE_2)

INFO = MethodInfo(
    name="bayes_pfl",
    title="Bayes-PFL",
    year=2025,
    paper="https://arxiv.org/abs/2503.10080",
    code="https://github.com/xiaozhen228/Bayes-PFL",
    needs_training=True,
    uses_class_names=True,
    scores_batch_jointly=False,
    checked_by="authors",
)


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    """Settings, by the names of the authors' code.

    Attributes:
        features_list: 1-based layers of the image encoder whose patches are used; None for the ends of the
            four quarters, (6, 12, 18, 24) of 24 layers.
        prompt_num: number of pairs in the bank.
        prompt_context_len: number of context vectors in a prompt.
        prompt_state_len: number of state vectors in a prompt.
        num_flows: number of planar flows of each distribution.
        sample_num: number of samples of each distribution that a score is averaged over; 0 for one sample at
            the means, without noise.
        seed: seed of the noise.
        stage: 1 for scores without pooled patches, 2 with them; also the stage that `loss` and `trainable`
            are about. None for 2 with an authors' file, and for 1 with new weights.
        image_score: "prob" for the mean probability, "mixed" for the mean of it and of the largest map
            values, "joint" for both scaled over the images of the batch, as published.
        top_k: number of pixels of the map, the largest ones, that "mixed" and "joint" average.
        sigma: standard deviation of the Gaussian filter over the map, in pixels; 0 switches it off.
    """

    features_list: tuple[int, ...] | None = None
    prompt_num: Annotated[int, AtLeast(1)] = 3
    prompt_context_len: Annotated[int, AtLeast(1)] = 5
    prompt_state_len: Annotated[int, AtLeast(1)] = 5
    num_flows: Annotated[int, AtLeast(1)] = 10
    sample_num: Annotated[int, AtLeast(0)] = 10
    seed: Annotated[int, AtLeast(0)] = 333
    stage: Literal[1, 2] | None = None
    image_score: Literal["prob", "mixed", "joint"] = "prob"
    top_k: Annotated[int, AtLeast(1)] = 2000
    sigma: Sigma = 8.0
    position_interpolation: PositionInterpolation = "bicubic_antialias"


@dataclass(frozen=True)
class Prompts(State):
    """The prompts, before samples of the distributions enter them.

    Attributes:
        token_ids: (C, L) int64.
    """

    token_ids: Tensor


class BayesPFL(Method[Config, RawFeatures, Prompts]):
    """See the module's description; learnt tensors have the names of the authors' file."""

    SHAPE_FIELDS = frozenset(
        {"features_list", "prompt_num", "prompt_context_len", "prompt_state_len", "num_flows"}
    )
    WEIGHTS_NOTE = (
        "the files of Bayes-PFL's authors, train_visa.pth and train_mvtec.pth, are on Google Drive, which "
        f"programs cannot fetch from: follow the link on {INFO.code} and give the file as --checkpoint"
    )
    AUTHORS_ACTIVATION = "gelu"
    FEATURES = RawFeatures
    FEATURE_FIELDS = frozenset({"features_list"})
    LOSS_IS_MEAN = False
    TRAINING = TrainingDefaults(
        epochs=30,
        batch_size=32,
        learning_rate=1e-3,
        schedule="cosine",
        warm_up=0.1,
        rates=(("temperature_", 10.0), *((name, 0.1) for name in SLOWLY_LEARNT)),
        mosaic_of="anomalous",
        augmentation="varied",
        held_out=5,
        patience=3,
        on={"mvtec": {"mosaic": 0.4}},
        notes="The authors stop early by labels of the dataset that they test on; here categories of the "
        "training data are held out.",
    )
    noise: Tensor

    def __init__(self, backbone: CLIP, config: Config) -> None:
        """Fresh parameters from torch's global random numbers.

        Raises:
            ConfigError: a setting is impossible for this backbone.
        """
        towers = backbone.config
        layers = layers_to_use(config.features_list, towers.vision.layers)
        super().__init__(backbone, replace(config, features_list=layers))
        self.layers = layers
        self.learnt_tokens = config.prompt_context_len + config.prompt_state_len
        class_prompts([DEFAULT_CLASS], self.learnt_tokens, towers.text.context_length)  # refuses early
        self.network = PromptFlowNetwork(
            towers,
            len(layers),
            pairs=config.prompt_num,
            context=config.prompt_context_len,
            state=config.prompt_state_len,
            flows=config.num_flows,
        )
        drawn = Draws.once(config.sample_num, towers.text.width, config.seed)
        self.register_buffer("noise", torch.cat([drawn.states, drawn.context]), persistent=False)
        self._freeze_other_stage()
        self._given: Draws | None = None
        self._given_pair: int | None = None

    @property
    def stage(self) -> Literal[1, 2]:
        """The stage of the settings, 1 if they leave it open."""
        return self.config.stage or 1

    @property
    def scores_jointly(self) -> bool:
        """Whether the settings ask for scores that are scaled over the batch."""
        return self.config.image_score == "joint"

    def set_draws(
        self,
        context: Tensor | None = None,
        normal: Tensor | None = None,
        abnormal: Tensor | None = None,
        prompt: int | None = None,
    ) -> None:
        """Puts noise in from outside, until the next call; without arguments it is taken out.

        Args:
            context: (R, D), the same for all images, or (B, R, D).
            normal: (R, D).
            abnormal: (R, D).
            prompt: pair of the bank that training steps are about; None for a random one (outside training
                mode the first).

        Raises:
            ConfigError: only some of the three are given, their shapes do not fit, or there is no such pair.
        """
        pairs = self.config.prompt_num
        if prompt is not None and not 0 <= prompt < pairs:
            raise ConfigError(f"prompt {prompt}: the bank has the pairs 0 to {pairs - 1}")
        if context is not None and normal is not None and abnormal is not None:
            self._given = Draws.given(context, normal, abnormal, self.noise.shape[-1])
        elif context is normal is abnormal is None:
            self._given = None
        else:
            raise ConfigError("set_draws takes context, normal and abnormal together, or none of them")
        self._given_pair = prompt

    @property
    def why_not_exportable(self) -> str:
        """Scores that are scaled over the images of a category; "" for all others."""
        if not self.scores_jointly:
            return ""
        return "it scales scores over a category; image_score=prob (--set image_score=prob) exports"

    def prepare(self, classes: Sequence[str], support: Support | None = None) -> Prompts:
        """The tokens of the prompts; what is learnt enters them with the image."""
        context = self.backbone.config.text.context_length
        token_ids = class_prompts(classes, self.learnt_tokens, context)
        return Prompts(token_ids.to(self.noise.device))

    @torch.no_grad()
    def features(self, images: Tensor) -> RawFeatures:
        """One pass through the image encoder; no gradients, because nothing in it is learnt."""
        at_once = IMAGES_AT_ONCE if self.scores_jointly else None  # whole categories come in one batch then
        return raw_features(self.backbone.visual, images, self.layers, at_once)

    def score(self, features: RawFeatures, state: Prompts) -> RawOutput:
        """Mean abnormal probability over the samples and pairs, of the image and of each pixel.

        Raises:
            ConfigError: `image_score="joint"` with a single image.
        """
        draws, ids = self._given or Draws.split(self.noise), state.token_ids
        count = features.image_features.shape[0]
        if self.scores_jointly and count < 2:
            raise ConfigError(
                'image_score="joint" scales scores over the images of a category and needs at least 2 at '
                'once, got 1: score them together, or use image_score="prob"'
            )
        parts = [
            self._judge(features.rows(rows), ids if ids.shape[0] == 1 else ids[rows], draws.rows(rows))
            for rows in (slices(count) if self.scores_jointly else [slice(None)])
        ]
        probabilities, maps = (torch.cat(part) for part in zip(*parts, strict=True))
        return RawOutput(self._image_scores(probabilities, maps), gaussian_filter(maps, self.config.sigma))

    def loss_from_features(
        self, features: RawFeatures, masks: Tensor, labels: Tensor, classes: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """The loss of the stage, with one sample of each distribution and one pair of the bank.

        L1 = CE + sum_l [ Focal(P_l, G) + Dice(P_l, G) ] + 0.01 (KL_z + KL_n + KL_a) + L_orth,   L2 = CE

        Source: Bayes-PFL (2503.10080), section 3.5, as in the authors' code. In training mode noise and pair
        are drawn from torch's global random numbers, unless `set_draws` gave them.

        Args:
            features: features of the batch.
            masks: (B, S, S) or (B, 1, S, S) in {0, 1}.
            labels: (B,) in {0, 1}.
            classes: one name for all images, or one per image; None means "object" for all.

        Returns:
            "image", and in stage 1 "focal", "dice", a divergence for each distribution, and "orthogonal",
            weights included.
        """
        images = features.image_features.shape[0]
        size = features.image_size(self.backbone.config.vision.patch_size)
        masks = check_masks(masks, images, size)
        draws, pair = self._training_draws(images)
        network, tokens = self.network, features.patch_tokens
        samples = network.sample(features.image_features, draws)
        token_ids = self.prepare(classes or [DEFAULT_CLASS]).token_ids
        bank = network.text(self.backbone, token_ids, samples)
        text = bank.index_select(2, pair)
        terms = {"image": F.cross_entropy(self._image_logits(text, features)[..., 0], labels.long())}
        if self.stage == 2:
            return terms
        maps = [self._pixels(logits)[:, 0] for logits in network.patch_logits(text, tokens)]
        divergences = [DIVERGENCE_WEIGHT * sample.divergence(images) for sample in samples]
        return {
            **terms,
            "focal": torch.stack([balanced_focal_loss(each, masks) for each in maps]).sum(),
            "dice": torch.stack([batch_dice_loss(each, masks) for each in maps]).sum(),
            **dict(zip(DIVERGENCES, divergences, strict=True)),
            "orthogonal": orthogonality(bank).sum(dim=1).mean(),
        }

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What the stage learns, by the names of the authors' file."""
        kept, later = (LEARNT_IN_STAGE_2, ()) if self.stage == 2 else ("", ONLY_IN_STAGE_2)
        for name, parameter in self.network.named_parameters():
            if name.startswith(kept) and not name.startswith(later):
                yield name, parameter

    @classmethod
    def training_defaults(cls, settings: Mapping[str, Any]) -> TrainingDefaults:
        """The second stage is judged by its image scores."""
        return replace(cls.TRAINING, judged_by="image_ap") if settings.get("stage") == 2 else cls.TRAINING

    def learned(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What both stages learn."""
        yield from self.network.named_parameters()

    def load_official(self, state_dict: Mapping[str, Any]) -> None:
        """Takes `{"MyModel": {...}}`, the file that the authors' training writes.

        If the settings leave the stage open, it is 2, as that of the published files.
        """
        learned = official_parameters(state_dict)
        check_layers(learned, self.layers)
        self.load_learned(learned)
        if self.config.stage is None:
            self.config = replace(self.config, stage=2)
            self._freeze_other_stage()

    @classmethod
    def official_config(cls, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """The sizes of the bank and the number of flows, from the shapes."""
        return official_settings(official_parameters(state_dict))

    def _freeze_other_stage(self) -> None:
        """Lets gradients reach exactly what the stage learns."""
        self.network.requires_grad_(False)
        for _, parameter in self.trainable():
            parameter.requires_grad_(True)

    def _training_draws(self, images: int) -> tuple[Draws, Tensor]:
        """One draw of each distribution and the number (1,) of a pair: as given, or random.

        Outside training mode they are always the same.
        """
        draws, pair = self._given or Draws.split(self.noise), torch.tensor([self._given_pair or 0])
        if self.training and self._given is None:
            draws = Draws.split(torch.randn(2 + images, 1, self.noise.shape[-1]))
        if self.training and self._given_pair is None:
            pair = torch.randint(self.config.prompt_num, (1,))
        return draws.first(), pair.to(self.noise.device)

    def _judge(self, features: RawFeatures, token_ids: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Image probabilities (B,) and maps (B, S, S) before smoothing."""
        samples = self.network.sample(features.image_features, draws)
        text = self.network.text(self.backbone, token_ids, samples)
        normal, abnormal = self._image_logits(text, features).unbind(dim=1)
        patches = self.network.patch_logits(text, features.patch_tokens)
        maps = torch.stack([self._pixels(logits).mean(dim=1) for logits in patches])
        return torch.sigmoid(abnormal - normal).mean(dim=1), maps.mean(dim=0)

    def _image_logits(self, text: Tensor, features: RawFeatures) -> Tensor:
        """(B, 2, M) logits of the image by the stage of the settings."""
        if self.stage == 1:
            return self.network.image_logits(text, features.image_features)
        fused = self.network.fused(features.image_features, features.patch_tokens)
        return self.network.image_logits(text, fused)

    def _pixels(self, logits: Tensor) -> Tensor:
        """(B, N, M) logits of the patches to (B, M, S, S) float32 probabilities of the pixels."""
        # In half precision the losses would take the logarithm of 0, and sums over pixels would overflow.
        grid = to_grid(logits.float())
        size = grid.shape[-1] * self.backbone.config.vision.patch_size
        return torch.sigmoid(upsample(grid, size, align_corners=True))

    def _image_scores(self, probabilities: Tensor, maps: Tensor) -> Tensor:
        """Scores (B,) in [0, 1] by the rule of the settings, from maps before smoothing."""
        if self.config.image_score == "prob":
            return probabilities
        peaks = mean_of_largest(maps, self.config.top_k)
        if self.config.image_score == "joint":
            probabilities, peaks = min_max(probabilities), min_max(peaks)
        return (probabilities + peaks) / 2
