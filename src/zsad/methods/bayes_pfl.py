"""Bayes-PFL: Bayesian prompt flow learning for zero-shot anomaly detection.

Qu et al., CVPR 2025, https://arxiv.org/abs/2503.10080; code https://github.com/xiaozhen228/Bayes-PFL.

Idea: instead of one learnt prompt, learn distributions of prompts. A bank holds three pairs of learnt words before
the class name: context vectors, which a pair shares, and state vectors of a normal and an abnormal object.
Samples of three distributions move them: a shift of the context that depends on the image, and one shift for
each state that does not. Each distribution is a Gaussian, computed by a small network, whose samples pass
through planar flows. The patches of four layers attend to the prompts (residual cross attention), and each pair
of prompts gives a probability for each pixel and for the image. The result is the mean over pairs, samples and
layers.

Training has two stages, one `zsad train` run each, of which the second starts from the file of the first:
`stage=1` learns the distributions, the bank, the attention and the maps; `stage=2` learns the score of the image,
for which the patches are pooled and added to CLIP's image feature.

What the released code does and the paper does not say (kept, because published weights depend on it):

* the encoder of a distribution returns exp(v / 2), and the sampler takes that for the variance, so that the
  standard deviation is exp(v / 4);
* the flows are not constrained to be invertible, and the logarithms of their determinants are divided by the
  batch size even for the distributions that do not depend on the image;
* normal and abnormal state share one encoder; a decoder and a reconstruction exist and enter no loss (accepted in
  the authors' files and ignored);
* the attention is scaled by the full width, not by that of a head, and has no output projection;
* focal and Dice losses are sums over the pixels of the whole batch, so the images of a step cannot be shared
  out between devices;
* on OpenAI's weights both encoders run with the erf GELU, although they were trained with QuickGELU, and the
  position table is resized bicubically with antialiasing.

Deviations from the released code:

* the authors draw the context noise anew for each image, so that a score depends on the order of the images; here
  noise is drawn once from `seed` and is the same for every image. `sample_num=0` takes the means instead, and
  `BayesPFL.set_draws` puts noise in from outside;
* the published score of an image is scaled by the smallest and largest value of its category, and takes 20
  pixels of the map for seven categories chosen by hand and 2000 for all others: `image_score="joint"`, with one
  `top_k` for all images. The default, "prob", is the probability alone, and "mixed" adds the map without that scaling;
* the authors stop early by the pixel AP (stage 1) or image AP (stage 2) on labels of the *test* dataset; here five categories of the
  training data are held out instead;
* a bias of the pooling, which its softmax cancels, is ignored;
* on a backbone without 24 layers, the ends of the four quarters of the image encoder give the patches.

The authors' files (`train_visa.pth`, `train_mvtec.pth`, both of stage 2) are on Google Drive, which programs
cannot fetch from: follow the link on the repository's page and give the file as `checkpoint=`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.errors import ConfigError, WeightsError
from zsad.files.fields import AtLeast
from zsad.methods.base import DEFAULT_CLASS, Method, MethodConfig, Sigma, State, Support
from zsad.methods.functional.batch_losses import balanced_focal_loss, batch_dice_loss, orthogonality
from zsad.methods.functional.checks import check_masks, check_names
from zsad.methods.functional.maps import gaussian_filter, grid_side, in_parts, min_max, to_grid, upsample
from zsad.methods.functional.patches import layers_to_use
from zsad.methods.prompts.flow_file import official_parameters, official_settings
from zsad.methods.prompts.prompt_bank import class_prompts, encode_prompts, shifted_vectors
from zsad.methods.prompts.prompt_flow import AmortisedFlows, FlowSample, FreeFlows, GaussianEncoder
from zsad.methods.training import TrainingDefaults
from zsad.types import MethodInfo, PositionInterpolation, RawOutput

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP

IMAGES_AT_ONCE = 8  # of a batch that holds a whole category
DIVERGENCE_WEIGHT = 0.01
INITIAL_STD = 0.02
FIRST_TEMPERATURE = 0.07
LEARNT_IN_STAGE_2 = ("class_mapping.", "image_mapping.", "fuse.")
ONLY_IN_STAGE_2 = ("image_mapping.", "fuse.")

INFO = MethodInfo(
    name="bayes_pfl",
    title="Bayes-PFL",
    year=2025,
    paper="https://arxiv.org/abs/2503.10080",
    code="https://github.com/xiaozhen228/Bayes-PFL",
    needs_training=True,
    uses_class_names=True,
    scores_batch_jointly=False,
)


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    """Settings, by the names of the authors' code.

    Attributes:
        features_list: 1-based layers of the image encoder whose patches are used; None for the ends of the four
            quarters, (6, 12, 18, 24) of 24 layers.
        prompt_num: number of pairs in the bank.
        prompt_context_len: number of context vectors in a prompt.
        prompt_state_len: number of state vectors in a prompt.
        num_flows: number of planar flows of each distribution.
        sample_num: number of samples of each distribution that a score is averaged over; 0 for one sample at the
            means, without noise.
        seed: seed of the noise.
        stage: 1 for the score before the patches are pooled, 2 for the score after; also what `loss` and
            `trainable` are about. None for 2 with an authors' file, and for 1 with new weights.
        image_score: "prob" for the mean probability, "mixed" for the mean of it and of the largest map values,
            "joint" for both scaled over the images of the batch, as published.
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


@dataclass(frozen=True)
class Features:
    """The frozen part of a batch.

    Attributes:
        image_features: (B, E) float32 image embedding, not normalised.
        patch_tokens: (B, T, N, D) float32 patches after each of the T used layers, before the final layer norm.
    """

    image_features: Tensor
    patch_tokens: Tensor


@dataclass(frozen=True)
class Draws:
    """Noise of the three distributions, standard normal; R samples.

    Attributes:
        context: (1 or B, R, D).
        states: (2, R, D), for the normal and the abnormal state.
        prompt: (1,) int64, pair of the bank that a training step is about; None where all pairs are used.
    """

    context: Tensor
    states: Tensor
    prompt: Tensor | None = None


class ResidualCrossAttention(nn.Module):
    """Prompts attend to the patches of each layer, which come into the joint space.

    Source: Bayes-PFL (2503.10080), section 3.4.

    Attributes:
        linear_proj: one linear layer for each used layer of the image encoder.
    """

    def __init__(self, layers: int, width: int, embed_dim: int) -> None:
        super().__init__()
        self.q_proj_pre = nn.Conv1d(embed_dim, embed_dim, 1)
        self.linear_proj = nn.ModuleList(nn.Linear(width, embed_dim, bias=False) for _ in range(layers))
        self.heads = math.gcd(4, embed_dim)

    def forward(self, text: Tensor, patch_tokens: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Prompts and patches of one layer after the other, all of length 1.

        Args:
            text: (B, M, E) prompts of length 1.
            patch_tokens: (B, T, N, D).

        Yields:
            (B, M, E) prompts and (B, N, E) patches.
        """
        queries = self._split(self.q_proj_pre(text.transpose(1, 2)).transpose(1, 2))
        for layer, tokens in zip(self.linear_proj, patch_tokens.unbind(dim=1), strict=True):
            patches = F.normalize(layer(tokens), dim=-1)
            values = self._split(patches)
            scale = text.shape[-1] ** -0.5  # of the full width, not of a head's
            attended = F.scaled_dot_product_attention(queries, values, values, scale=scale)
            yield F.normalize(text + attended.transpose(1, 2).flatten(2), dim=-1), patches

    def _split(self, x: Tensor) -> Tensor:
        """(B, L, E) -> (B, heads, L, E / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class PatchFusion(nn.Module):
    """Pools the patches of all layers into one vector, weighted by a softmax over the patches."""

    def __init__(self, inputs: int, inner: int, embed_dim: int) -> None:
        super().__init__()
        self.fuse_modules = nn.Linear(inputs, inner)
        self.compress = nn.Linear(inner, 1, bias=False)
        self.post_process = nn.Linear(inner, embed_dim)

    def forward(self, patch_tokens: Tensor) -> Tensor:
        """(B, T, N, D) -> (B, E)."""
        fused = self.fuse_modules(patch_tokens.transpose(1, 2).flatten(2))  # (B, N, inner)
        weights = torch.softmax(self.compress(fused), dim=1)
        pooled: Tensor = self.post_process((weights * fused).sum(dim=1))
        return pooled


class BayesPFL(Method[Config, Features, Prompts]):
    """See the module's description; learnt tensors have the names of the authors' file."""

    SHAPE_FIELDS = frozenset(
        {"features_list", "prompt_num", "prompt_context_len", "prompt_state_len", "num_flows"}
    )
    AUTHORS_ACTIVATION = "gelu"
    FEATURES = Features
    FEATURE_FIELDS = frozenset({"features_list"})
    LOSS_IS_MEAN = False
    TRAINING = TrainingDefaults(
        epochs=30,
        batch_size=32,
        learning_rate=1e-3,
        schedule="cosine",
        warm_up=0.1,
        rates=(
            ("temperature_", 10.0),
            *((name, 0.1) for name in ("context_encoder.", "state_encoder.", "RCA.", "class_mapping.")),
            *((name, 0.1) for name in ONLY_IN_STAGE_2),
        ),
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
        width, text_width, joint = towers.vision.width, towers.text.width, towers.embed_dim
        inner, flows, pairs = width // 2, config.num_flows, config.prompt_num
        self.learnt_tokens = config.prompt_context_len + config.prompt_state_len
        class_prompts([DEFAULT_CLASS], self.learnt_tokens, towers.text.context_length)  # refuses early
        self.prompt_context = _vectors(0.0, pairs, config.prompt_context_len, text_width)
        self.prompt_state_normal = _vectors(0.5, pairs, config.prompt_state_len, text_width)
        self.prompt_state_abnormal = _vectors(-0.5, pairs, config.prompt_state_len, text_width)
        self.temperature_pixel = nn.Parameter(torch.tensor(math.log(1 / FIRST_TEMPERATURE)))
        self.temperature_image = nn.Parameter(torch.tensor(math.log(1 / FIRST_TEMPERATURE)))
        self.context_encoder = GaussianEncoder(joint, inner, text_width)
        self.state_encoder = GaussianEncoder(text_width, inner, text_width)
        self.PFL_context = AmortisedFlows(joint, text_width, flows)
        self.PFL_normal = FreeFlows(text_width, flows)
        self.PFL_abnormal = FreeFlows(text_width, flows)
        self.fuse = PatchFusion(len(layers) * width, inner, joint)
        self.RCA = ResidualCrossAttention(len(layers), width, joint)
        self.class_mapping = nn.Linear(joint, joint)
        self.image_mapping = nn.Linear(joint, joint)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and not name.startswith("backbone."):
                nn.init.normal_(module.weight, std=INITIAL_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        generator = torch.Generator().manual_seed(config.seed)
        noise = torch.randn(3, max(1, config.sample_num), text_width, generator=generator)
        self.register_buffer("noise", noise if config.sample_num else 0 * noise, persistent=False)
        self._given: Draws | None = None

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
            prompt: pair of the bank that training steps are about; None for a random one, or for the first pair
                outside training mode.

        Raises:
            ConfigError: only some of the three are given, their shapes do not fit, or there is no such pair.
        """
        found = [context, normal, abnormal]
        given = [each for each in found if each is not None]
        if prompt is not None and not 0 <= prompt < self.config.prompt_num:
            raise ConfigError(f"prompt {prompt}: the bank has the pairs 0 to {self.config.prompt_num - 1}")
        if len(given) not in (0, 3):
            raise ConfigError("set_draws takes context, normal and abnormal together, or none of them")
        if not given and prompt is None:
            self._given = None
            return
        drawn, normal, abnormal = given or (self.noise[0], self.noise[1], self.noise[2])
        shape = (drawn.shape[-2] if drawn.ndim > 1 else 0, self.noise.shape[-1])
        if drawn.ndim not in (2, 3) or not drawn.shape[-2:] == normal.shape == abnormal.shape == shape:
            raise ConfigError(
                f"draws must be context (R, {shape[1]}) or (B, R, {shape[1]}), normal and abnormal (R, {shape[1]}), "
                f"got {[tuple(each.shape) for each in (drawn, normal, abnormal)]}"
            )
        rows = drawn if drawn.ndim == 3 else drawn[None]
        pair = None if prompt is None else torch.tensor([prompt])
        self._given = Draws(rows, torch.stack([normal, abnormal]), pair)

    def prepare(self, classes: Sequence[str], support: Support | None = None) -> Prompts:
        """The tokens of the prompts; what is learnt enters them with the image."""
        context = self.backbone.config.text.context_length
        token_ids = class_prompts(classes, self.learnt_tokens, context)
        return Prompts(token_ids.to(self.noise.device))

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """One pass through the image encoder; no gradients, because nothing in it is learnt."""
        if self.scores_jointly:  # whole categories come in one batch
            return Features(*in_parts(self._read, images, IMAGES_AT_ONCE))
        return Features(*self._read(images))

    def score(self, features: Features, state: Prompts) -> RawOutput:
        """Mean abnormal probability over the samples and pairs, of the image and of each pixel.

        Raises:
            ConfigError: `image_score="joint"` with a single image.
        """
        draws = self._given or Draws(self.noise[:1], self.noise[1:])
        if not self.scores_jointly:
            probabilities, maps = self._judge(features, state.token_ids, draws)
            return RawOutput(self._image_scores(probabilities, maps), gaussian_filter(maps, self.config.sigma))
        count = len(features.image_features)
        if count < 2:
            raise ConfigError(
                'image_score="joint" scales scores over the images of a category and needs at least 2 at once, '
                'got 1: score them together, or use image_score="prob"'
            )
        parts = [
            self._judge(
                Features(features.image_features[rows], features.patch_tokens[rows]),
                state.token_ids if len(state.token_ids) == 1 else state.token_ids[rows],
                draws if len(draws.context) == 1 else replace(draws, context=draws.context[rows]),
            )
            for rows in (slice(start, start + IMAGES_AT_ONCE) for start in range(0, count, IMAGES_AT_ONCE))
        ]
        probabilities, maps = (torch.cat(part) for part in zip(*parts, strict=True))
        return RawOutput(self._image_scores(probabilities, maps), gaussian_filter(maps, self.config.sigma))

    def loss_from_features(
        self, features: Features, masks: Tensor, labels: Tensor, classes: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """The loss of the stage, with one sample of each distribution and one pair of the bank.

        L1 = CE + sum_l [ Focal(P_l, G) + Dice(P_l, G) ] + 0.01 (KL_z + KL_n + KL_a) + L_orth,   L2 = CE

        Source: Bayes-PFL (2503.10080), section 3.5, as in the authors' code. In training mode noise and pair are
        drawn from torch's global random numbers, unless `set_draws` gave them.

        Args:
            features: features of the batch.
            masks: (B, S, S) or (B, 1, S, S) in {0, 1}.
            labels: (B,) in {0, 1}.
            classes: one name for all images, or one per image; None means "object" for all.

        Returns:
            "image", and in stage 1 "focal", "dice", "divergence" and "orthogonal", weights included.
        """
        images = len(features.image_features)
        masks = check_masks(masks, images, self._image_size(features))
        draws = self._training_draws(images)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.stage == 1):
            token_ids = self.prepare(classes or [DEFAULT_CLASS]).token_ids
            samples = self._sample(features, draws)
            bank = self._text(token_ids, samples, images).unflatten(1, (2, -1))  # (B, 2, K, E)
            text = bank.index_select(2, draws.prompt if draws.prompt is not None else masks.new_zeros(1).long())
        logits = self._image_logits(text.flatten(1, 2), features)[..., 0]
        terms = {"image": F.cross_entropy(logits, labels.long())}
        if self.stage == 2:
            return terms
        maps = [torch.sigmoid(each[:, 0]) for each in self._map_logits(text.flatten(1, 2), features)]
        divergence = torch.stack([sample.divergence(images) for sample in samples]).sum()
        return {
            **terms,
            "focal": torch.stack([balanced_focal_loss(each, masks) for each in maps]).sum(),
            "dice": torch.stack([batch_dice_loss(each, masks) for each in maps]).sum(),
            "divergence": DIVERGENCE_WEIGHT * divergence,
            "orthogonal": orthogonality(bank).sum(dim=1).mean(),
        }

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What the stage learns, by the names of the authors' file."""
        for name, parameter in self._learnt():
            if name.startswith(LEARNT_IN_STAGE_2) if self.stage == 2 else not name.startswith(ONLY_IN_STAGE_2):
                yield name, parameter

    @classmethod
    def training_defaults(cls, settings: Mapping[str, Any]) -> TrainingDefaults:
        """The second stage is judged by its image scores."""
        return replace(cls.TRAINING, judged_by="image_ap") if settings.get("stage") == 2 else cls.TRAINING

    def learned_state(self) -> dict[str, Tensor]:
        """What both stages learn."""
        return {name: parameter.detach().clone() for name, parameter in self._learnt()}

    def load_learned(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `learned_state` gave.

        Raises:
            WeightsError: names or shapes differ; the message lists them.
        """
        parameters = dict(self._learnt())
        check_names(INFO.name, expected=parameters, found=state)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state[name])

    def load_official(self, state_dict: Mapping[str, Any]) -> None:
        """Takes `{"MyModel": {...}}`; where the settings leave the stage open, it is 2, as in the published files."""
        learned = official_parameters(state_dict)
        count = sum(name.startswith("RCA.linear_proj.") for name in learned)
        if count != len(self.layers):
            raise WeightsError(
                f"the file holds weights for {count} layers, but features_list names {len(self.layers)}: "
                f"{self.layers}; give the layers that it was trained with as features_list"
            )
        self.load_learned(learned)
        if self.config.stage is None:
            self.config = replace(self.config, stage=2)

    @classmethod
    def official_config(cls, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """The sizes of the bank and the number of flows, from the shapes."""
        return official_settings(official_parameters(state_dict))

    def _learnt(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What is learnt in one of the two stages."""
        yield from (each for each in self.named_parameters() if not each[0].startswith("backbone."))

    def _read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The fields of `Features`."""
        output = self.backbone.visual(images, taps=self.layers)
        tokens = torch.stack([output.tokens[layer][:, 1:] for layer in self.layers], dim=1)
        return self.backbone.visual.project(output.class_token).float(), tokens.float()

    def _training_draws(self, images: int) -> Draws:
        """One sample of each distribution and one pair: as given, random, or outside training mode always the same."""
        device = self.noise.device
        given = self._given
        if given is None and self.training:
            drawn = torch.randn(images + 2, 1, self.noise.shape[-1]).to(device)
            given = Draws(drawn[2:], drawn[:2])
        draws = given or Draws(self.noise[:1], self.noise[1:])
        pair = draws.prompt
        if pair is None:
            pair = torch.randint(self.config.prompt_num, (1,)) if self.training else torch.zeros(1, dtype=torch.long)
        return Draws(draws.context[:, :1], draws.states[:, :1], pair.to(device))

    def _sample(self, features: Features, draws: Draws) -> tuple[FlowSample, FlowSample, FlowSample]:
        """Samples of the context's shift for each image, and of the shifts of both states."""
        context, states = (noise.to(self.noise) for noise in (draws.context, draws.states))
        images = len(features.image_features)
        if len(context) not in (1, images):
            raise ConfigError(f"set_draws was given context noise of {len(context)} images, but {images} came")
        return (
            self.PFL_context(features.image_features, self.context_encoder, context),
            self.PFL_normal(self.state_encoder, states[:1]),
            self.PFL_abnormal(self.state_encoder, states[1:]),
        )

    def _text(self, token_ids: Tensor, samples: Sequence[FlowSample], images: int) -> Tensor:
        """(B, 2 R K, E) prompts of length 1: normal, then abnormal, in each draw after draw."""
        context, normal, abnormal = (sample.vectors for sample in samples)
        states = torch.stack([self.prompt_state_normal, self.prompt_state_abnormal])
        shifts = torch.cat([normal, abnormal])
        vectors = shifted_vectors(self.prompt_context, states, context.expand(images, -1, -1), shifts)
        return encode_prompts(self.backbone, token_ids, vectors)

    def _judge(self, features: Features, token_ids: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Image probabilities (B,) and maps (B, S, S) before smoothing."""
        text = self._text(token_ids, self._sample(features, draws), len(features.image_features))
        normal, abnormal = self._image_logits(text, features).unbind(dim=1)
        maps = [torch.sigmoid(logits).mean(dim=1) for logits in self._map_logits(text, features)]
        return torch.sigmoid(abnormal - normal).mean(dim=1), torch.stack(maps).mean(dim=0)

    def _image_logits(self, text: Tensor, features: Features) -> Tensor:
        """(B, 2, R K) of the pairs, normal then abnormal."""
        image, temperature = features.image_features, self.temperature_image.exp()
        if self.stage == 2:
            image = self.image_mapping(image + self.fuse(features.patch_tokens))
            temperature = temperature.detach()
        mapped = F.normalize(self.class_mapping(text), dim=-1)
        logits = temperature * (mapped @ F.normalize(image, dim=-1)[..., None])[..., 0]
        return logits.unflatten(1, (2, -1))

    def _map_logits(self, text: Tensor, features: Features) -> Iterator[Tensor]:
        """(B, R K, S, S) of each layer, abnormal minus normal of each pair, whose sigmoid is their softmax."""
        size = self._image_size(features)
        for prompts, patches in self.RCA(text, features.patch_tokens):
            normal, abnormal = prompts.unflatten(1, (2, -1)).unbind(dim=1)
            # Products and upsampling are linear, so the difference can be taken before them.
            logits = self.temperature_pixel.exp() * (patches @ (abnormal - normal).transpose(1, 2))
            yield upsample(to_grid(logits), size, align_corners=True)

    def _image_scores(self, probabilities: Tensor, maps: Tensor) -> Tensor:
        """Scores (B,) in [0, 1] from probabilities (B,) and maps before smoothing, by the rule of the settings."""
        if self.config.image_score == "prob":
            return probabilities
        pixels = maps.flatten(1)
        peaks = pixels.topk(min(self.config.top_k, pixels.shape[1]), dim=1).values.mean(dim=1)
        if self.config.image_score == "joint":
            probabilities, peaks = min_max(probabilities), min_max(peaks)
        return (probabilities + peaks) / 2

    def _image_size(self, features: Features) -> int:
        """Pixels a side of the images that the features were made from."""
        return grid_side(features.patch_tokens.shape[-2]) * self.backbone.config.vision.patch_size


def _vectors(mean: float, *shape: int) -> nn.Parameter:
    """New vectors from a normal distribution with standard deviation 0.02, cut at 2 from 0."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), mean=mean, std=INITIAL_STD))
