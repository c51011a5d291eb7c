"""AdaCLIP: adapting CLIP with hybrid learnable prompts for zero-shot anomaly detection.

Cao et al., ECCV 2024, https://arxiv.org/abs/2407.15795; code https://github.com/caoyunkang/AdaCLIP.

Idea: prompt tokens are learnt inside both encoders, on any labelled auxiliary set. Static ones are the same
for all images, dynamic ones are computed from the image by linear layers on CLIP's plain feature of it, and
the hybrid is their sum. Linear layers bring the patches of four layers and the class token into the joint
space. Hand-written prompts with the class name, read by the prompted text encoder, say what is normal and
abnormal. For the score of the image, the class token is mixed with the mean of k-means clusters of the most
anomalous patches (hybrid semantic fusion).

What the released code does and the paper does not say (kept, because published weights depend on it):

* prompt tokens of the text encoder overwrite the first words of each prompt ("a bad photo of a") before
  layers 2 to `prompting_depth`; those of layer 1 in the file are never used;
* prompt tokens are rounded to half precision (`round_prompts_to_half=False` leaves that out);
* the fused feature is the mean of all clusters, not the cluster with the largest score;
* on OpenAI's weights both encoders run with the erf GELU, although they were trained with QuickGELU, and the
  position table is resized bicubically without antialiasing;
* masks of the authors' only batch size, 1, lose their batch dimension, so that Dice is averaged over pixel
  rows; `row_wise_dice=False` takes it per image.

Deviations from the released code:

* batches of any size: each image meets the prompts under its own dynamic prompt tokens;
* dynamic prompt tokens in the text encoder alone, which stop the authors' code with an error, work;
* clustering is seeded, and asks for no more clusters than there are patches;
* on a backbone without 24 + 12 layers, the ends of the four quarters of the image encoder give the patches,
  and the prompting depth is 4 or the number of layers of the shorter prompted encoder.

Prompts are encoded once per image only where their tokens depend on it. k-means is scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.backbones.catalog import MVTEC, VISA, authors_weights
from zsad.errors import ConfigError
from zsad.files.fields import AtLeast
from zsad.methods.base import (
    DEFAULT_CLASS,
    Method,
    MethodConfig,
    Sigma,
    State,
    Support,
    Temperature,
    TextState,
)
from zsad.methods.functional.checks import check_masks, check_names
from zsad.methods.functional.losses import dice_loss, focal_loss
from zsad.methods.functional.maps import gaussian_filter, to_grid, upsample
from zsad.methods.functional.patches import layers_to_use
from zsad.methods.functional.semantic_fusion import semantic_fusion
from zsad.methods.functional.similarity import cosine_similarity, similarity_softmax
from zsad.methods.prompts.hybrid import (
    HybridPrompter,
    LinearHeads,
    dynamic_prompts,
    encode_prompted,
    prompt_tokens,
    resolve_depth,
)
from zsad.methods.prompts.hybrid_file import (
    UNUSED_IN_FILE,
    official_parameters,
    prompt_settings,
    used_parameters,
)
from zsad.methods.prompts.templates import (
    APRIL_GAN_ABNORMAL_STATES,
    APRIL_GAN_TEMPLATES,
    NORMAL_STATES,
    PromptSet,
    TextEnsemble,
)
from zsad.methods.training import TrainingDefaults
from zsad.types import MethodInfo, PositionInterpolation, RawOutput

if TYPE_CHECKING:
    from typing_extensions import Self

    from zsad.backbones.clip import CLIP, ClipConfig

CLUSTERED_SHARE = 0.2  # share of the fused feature in the feature of the image
PROMPTS = PromptSet(NORMAL_STATES, APRIL_GAN_ABNORMAL_STATES, APRIL_GAN_TEMPLATES[:4])
NORMAL_PROMPTS = len(PROMPTS.normal_states) * len(PROMPTS.templates)

INFO = MethodInfo(
    name="adaclip",
    title="AdaCLIP",
    year=2024,
    paper="https://arxiv.org/abs/2407.15795",
    code="https://github.com/caoyunkang/AdaCLIP",
    needs_training=True,
    uses_class_names=True,
    scores_batch_jointly=False,
    checked_by="authors",
)

# The authors' README links Google Drive, which programs cannot fetch from; their demo has the same files.
FILES = "https://huggingface.co/spaces/Caoyunkang/AdaCLIP/resolve/main/weights"
PAGE = "https://github.com/caoyunkang/AdaCLIP#weight-preparation"
ALL_SETS = (
    "MVTec AD, VisA, MPDD, BTAD, KolektorSDD, DAGM 2007, DTD-Synthetic, HeadCT, BrainMRI, Br35H, ISIC, "
    "CVC-ColonDB, CVC-ClinicDB, TN3K"
)

WEIGHTS = (
    authors_weights(
        "adaclip-trained-on-mvtec-colondb",
        f"{FILES}/pretrained_mvtec_colondb.pth",
        PAGE,
        f"{MVTEC}, CVC-ColonDB",
        sha256="be51a42c052bd4cf060e54f503a1f5d0b2a3b899bc8dc2e243042f18b215427e",
        notes="named as the file is; the authors' table of weights says MVTec AD and ClinicDB",
    ),
    authors_weights(
        "adaclip-trained-on-visa-clinicdb",
        f"{FILES}/pretrained_visa_clinicdb.pth",
        PAGE,
        f"{VISA}, CVC-ClinicDB",
        sha256="3deabbbaf1e412cfdfcb42923a500b986f4b9ee96ccbc7a735d89dbc87df44c8",
        notes="named as the file is; the authors' table of weights says VisA and ColonDB",
    ),
    authors_weights(
        "adaclip-trained-on-all",
        f"{FILES}/pretrained_all.pth",
        PAGE,
        ALL_SETS,
        sha256="33e8d3db1cb4aab030866b8b70a46e10aa27ebf2c23b5463cb07f2574addd98c",
        notes="for use, not for comparisons: it has seen all 14 sets of the paper",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    """Settings, by the names of the authors' code.

    Attributes:
        features_list: 1-based layers of the image encoder whose patches are used, kept in ascending order;
            None for the ends of the four quarters, (6, 12, 18, 24) of 24 layers.
        prompting_depth: last prompted layer of the prompted encoders; None for 4, or for the number of layers
            if that is smaller.
        prompting_length: number of prompt tokens in a layer.
        prompting_type: "S" for static prompt tokens, "D" for dynamic ones, "SD" for their sum.
        prompting_branch: "V" for prompt tokens in the image encoder, "L" in the text encoder, "VL" in both.
        use_hsf: whether the feature of the image takes in the clusters of its most anomalous patches.
        k_clusters: number of clusters of k-means; five times as many patches are clustered.
        sigma: standard deviation of the Gaussian filter over the map, in pixels; 0 switches it off.
        temperature: temperature of the softmax over normal and abnormal.
        row_wise_dice: whether the Dice losses are averaged over rows of pixels, as the authors' code does at
            its batch size of 1, or over images.
        round_prompts_to_half: whether prompt tokens pass through half precision, as in the authors' code.
    """

    features_list: tuple[int, ...] | None = None
    prompting_depth: int | None = None
    prompting_length: Annotated[int, AtLeast(1)] = 5
    prompting_type: Literal["S", "D", "SD"] = "SD"
    prompting_branch: Literal["V", "L", "VL"] = "VL"
    use_hsf: bool = True
    k_clusters: Annotated[int, AtLeast(1)] = 20
    sigma: Sigma = 4.0
    temperature: Temperature = 0.01
    row_wise_dice: bool = True
    round_prompts_to_half: bool = True
    position_interpolation: PositionInterpolation = "bicubic"

    def resolved(self, towers: ClipConfig) -> Self:
        """The same settings with everything that depends on the backbone filled in.

        Args:
            towers: shape of the image encoder and the text encoder.

        Raises:
            ConfigError: a value is impossible for these encoders; the message holds the allowed range.
        """
        layers = sorted(layers_to_use(self.features_list, towers.vision.layers))
        depth = resolve_depth(self.prompting_depth, self.prompting_branch, towers)
        return replace(self, features_list=tuple(layers), prompting_depth=depth)


@dataclass(frozen=True)
class OpenText(State):
    """The state where the dynamic prompt tokens of each image enter its prompts.

    Attributes:
        token_ids: (C, P, L) int64 of the normal prompts, then of the abnormal ones.
    """

    token_ids: Tensor


@dataclass(frozen=True)
class Features:
    """What does not depend on what is learnt: little, because prompt tokens enter the image encoder.

    Attributes:
        images: (B, 3, S, S) the images themselves.
        frozen_features: (B, E) float32 plain CLIP features, not normalised, from which dynamic prompt tokens
            are computed; (B, 0) without such tokens.
    """

    images: Tensor
    frozen_features: Tensor


class AdaCLIP(Method[Config, Features, TextState | OpenText]):
    """See the module's description."""

    SHAPE_FIELDS = frozenset(
        {"features_list", "prompting_depth", "prompting_length", "prompting_type", "prompting_branch"}
    )
    AUTHORS_ACTIVATION = "gelu"
    IMAGE_TERMS = frozenset({"image"})
    TRAINING = TrainingDefaults(
        epochs=5,
        batch_size=1,
        learning_rate=0.01,
        optimizer="adamw",
        weight_decay=0.01,
        precision="fp16",
        on={"mvtec": {"mosaic": 0.2}},
        notes="The authors keep the epoch with the best pixel F1 on another dataset's test set; here the "
        "last one is kept: test labels choose nothing. zsad's half precision has loss scaling, theirs none.",
    )

    def __init__(self, backbone: CLIP, config: Config) -> None:
        """Fresh prompts and layers from torch's global random numbers.

        Raises:
            ConfigError: a setting is impossible for this backbone.
        """
        towers = backbone.config
        super().__init__(backbone, config.resolved(towers))
        self.layers = layers_to_use(self.config.features_list, towers.vision.layers)
        self.depth = resolve_depth(self.config.prompting_depth, self.config.prompting_branch, towers)
        length, context = self.config.prompting_length, towers.text.context_length
        if length >= context:
            raise ConfigError(f"prompting_length {length}: use 1 to {context - 1}")
        self.text = TextEnsemble(self.backbone, PROMPTS)
        vision_width, text_width, joint = towers.vision.width, towers.text.width, towers.embed_dim
        self.visual_prompter = self._prompter("V", first_layer=1, width=vision_width)
        self.text_prompter = self._prompter("L", first_layer=2, width=text_width)
        self.dynamic_visual_prompt_generator = self._generator(self.visual_prompter, joint, vision_width)
        self.dynamic_text_prompt_generator = self._generator(self.text_prompter, joint, text_width)
        self.patch_token_layer = LinearHeads(vision_width, joint, len(self.layers))
        self.cls_token_layer = LinearHeads(joint, joint, 1)

    def prepare(self, classes: Sequence[str], support: Support | None = None) -> TextState | OpenText:
        """The prompts of the classes, already encoded if they do not depend on the image."""
        names = [name.replace("-", " ") for name in classes]
        if self.text_prompter is None:
            return TextState(self.text.encode(names))
        different = list(dict.fromkeys(names))
        device = self.backbone.text_projection.device
        rows = torch.tensor([different.index(name) for name in names], device=device)
        context = self.backbone.config.text.context_length
        token_ids = prompt_tokens(PROMPTS, different, context).to(device)
        if self.dynamic_text_prompt_generator is not None:
            return OpenText(token_ids[rows])
        encoded = encode_prompted(self.backbone, token_ids, NORMAL_PROMPTS, self.text_prompter)
        return TextState(encoded[rows])

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """The images, with the features that dynamic prompt tokens are computed from."""
        if "D" not in self.config.prompting_type:
            return Features(images, torch.empty(images.shape[0], 0, device=images.device))
        return Features(images, self.backbone.encode_image(images).float())

    def score(self, features: Features, state: TextState | OpenText) -> RawOutput:
        """Abnormal probability of the image's feature, and of the patches by the mean of all layers."""
        logits, probabilities = self._judge(features, state)
        size = int(features.images.shape[-1])  # a tracer gives a tensor here
        # Upsampling is linear, so the layers can be averaged before it.
        maps = upsample(to_grid(logits.mean(dim=1)), size, align_corners=True)
        abnormal = torch.softmax(maps, dim=1)[:, 1]
        return RawOutput(probabilities[:, 1], gaussian_filter(abnormal, self.config.sigma))

    def loss_from_features(
        self, features: Features, masks: Tensor, labels: Tensor, classes: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Focal loss of the image, and focal and both Dice losses of the patches, summed over the layers.

        L = Focal(p, y) + sum_l [ Focal(P_l, G) + Dice(P_l abnormal, G) + Dice(P_l normal, 1 - G) ]

        Source: AdaCLIP (2407.15795), section 3.5, as in the authors' code.

        Args:
            features: features of the batch.
            masks: (B, S, S) or (B, 1, S, S) in {0, 1}.
            labels: (B,) in {0, 1}.
            classes: one name for all images, or one per image; None means "object" for all.

        Returns:
            "image", "focal", "dice_abnormal" and "dice_normal".
        """
        size = int(features.images.shape[-1])
        masks = check_masks(masks, len(features.images), size)
        logits, probabilities = self._judge(features, self.prepare(classes or [DEFAULT_CLASS]))
        maps = torch.softmax(upsample(to_grid(logits), size, align_corners=True), dim=2)  # (B, T, 2, S, S)
        layers = maps.unbind(dim=1)
        return {
            "image": focal_loss(probabilities[:, :, None, None], labels[:, None, None]),
            "focal": torch.stack([focal_loss(layer, masks) for layer in layers]).sum(),
            "dice_abnormal": torch.stack([self._dice(layer[:, 1], masks) for layer in layers]).sum(),
            "dice_normal": torch.stack([self._dice(layer[:, 0], 1 - masks) for layer in layers]).sum(),
        }

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Prompt tokens, their generators and the projections, by the names of the authors' file."""
        yield from (each for each in self.named_parameters() if not each[0].startswith("backbone."))

    def load_official(self, state_dict: Mapping[str, Any]) -> None:
        """Takes the flat file `clip_model.<module>...` that the authors' training writes.

        Prompt tokens of a kind or of an encoder that the settings leave out are ignored.
        """
        parameters = dict(self.trainable())
        expected: dict[str, Tensor] = dict(parameters)
        if (first := expected.get("text_prompter.static_prompts.1")) is not None:
            expected[UNUSED_IN_FILE] = first
        found = used_parameters(official_parameters(state_dict), parameters)
        check_names(INFO.name, expected=expected, found=found)
        self.load_learned({name: found[name] for name in parameters})

    @classmethod
    def official_config(cls, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that names and shapes of the prompt tokens determine."""
        return prompt_settings(official_parameters(state_dict))

    def _prompter(self, branch: str, first_layer: int, width: int) -> HybridPrompter | None:
        """The prompt tokens of one encoder; None if none of its layers has any."""
        config = self.config
        layers = range(first_layer, self.depth + 1)
        if branch not in config.prompting_branch or not layers:
            return None
        return HybridPrompter(
            layers,
            config.prompting_length,
            width,
            static="S" in config.prompting_type,
            round_to_half=config.round_prompts_to_half,
        )

    def _generator(self, prompter: HybridPrompter | None, inputs: int, width: int) -> LinearHeads | None:
        """What computes the dynamic prompt tokens of an encoder; None without such tokens."""
        if prompter is None or "D" not in self.config.prompting_type:
            return None
        return LinearHeads(inputs, width, self.config.prompting_length)

    def _judge(self, features: Features, state: TextState | OpenText) -> tuple[Tensor, Tensor]:
        """Patch logits (B, T, N, 2) and image probabilities (B, 2), normal then abnormal."""
        image, patches = self._project(features)
        text = self._text_features(features, state)
        temperature = self.config.temperature
        logits = cosine_similarity(patches, text) / temperature
        if self.config.use_hsf:
            clustered = semantic_fusion(patches, logits, self.config.k_clusters)
            image = CLUSTERED_SHARE * clustered + (1 - CLUSTERED_SHARE) * image
        return logits, similarity_softmax(image, text, temperature)

    def _project(self, features: Features) -> tuple[Tensor, Tensor]:
        """The images in the joint space, through the prompted encoder and the learnt projections.

        Returns:
            (B, E) class token and (B, T, N, E) patches of the used layers, float32, all of length 1.
        """
        visual, images = self.backbone.visual, features.images
        prompts = None
        if self.visual_prompter is not None:
            dynamic = dynamic_prompts(self.dynamic_visual_prompt_generator, features.frozen_features)
            prompts = self.visual_prompter(dynamic, images.shape[0])
        output = visual(images, taps=self.layers, deep_prompts=prompts)
        patches = self.patch_token_layer.each([output.tokens[layer][:, 1:].float() for layer in self.layers])
        image = self.cls_token_layer(visual.project(output.class_token).float())[:, 0]
        return F.normalize(image, dim=-1), F.normalize(patches, dim=-1)

    def _text_features(self, features: Features, state: TextState | OpenText) -> Tensor:
        """(C or B, 2, E) float32 of length 1, normal then abnormal; encoded here if they depend on images."""
        if isinstance(state, TextState):
            return state.text_features
        dynamic = dynamic_prompts(self.dynamic_text_prompt_generator, features.frozen_features)
        return encode_prompted(self.backbone, state.token_ids, NORMAL_PROMPTS, self.text_prompter, dynamic)

    def _dice(self, probabilities: Tensor, masks: Tensor) -> Tensor:
        """Dice loss of (B, S, S), averaged over rows of pixels or over images."""
        if self.config.row_wise_dice:
            return dice_loss(probabilities.flatten(0, 1), masks.flatten(0, 1))
        return dice_loss(probabilities, masks)
