"""AdaCLIP: adapting CLIP with hybrid learnable prompts for zero-shot anomaly detection.

Cao et al., ECCV 2024, https://arxiv.org/abs/2407.15795; code https://github.com/caoyunkang/AdaCLIP.

Idea: prompt tokens are learnt inside both towers, on any labelled auxiliary set. Static ones are the same for
all images, dynamic ones are made from the image by linear layers on CLIP's plain feature of it, and the
hybrid is their sum. Linear layers bring the patches of four blocks and the class token into the joint space.
Hand-written prompts with the class name, read by the prompted text encoder, say what is normal and abnormal.
For the image's score the class token is mixed with the mean of k-means clusters of the most anomalous
patches (hybrid semantic fusion).

What the released code does and the paper does not say (kept, because published weights depend on it):

* text prompts overwrite the first words of each sentence ("a bad photo of a") before blocks 2 to
  `prompting_depth`; the file's text prompt of block 1 is never used, so it is accepted and ignored;
* prompts are rounded to half precision (`round_prompts_to_half=False` leaves that out);
* the fused feature is the mean of all clusters, not the cluster with the largest score;
* on OpenAI's weights both towers run with the erf GELU, although they were trained with QuickGELU, and the
  position table is resized bicubically without antialiasing;
* masks of the authors' only batch size, 1, lose their batch dimension, so that Dice is averaged over pixel
  rows; `row_wise_dice=False` takes it per image.

Deviations from the released code:

* batches of any size: each image meets its sentences under its own dynamic prompts;
* dynamic prompts in the text encoder alone, which stop the authors' code with an error, work;
* clustering is seeded, and asks for no more clusters than there are patches;
* on a backbone that has not 24 + 12 blocks, the ends of the four quarters of the image encoder give the
  patches, and the prompting depth is 4 or the number of blocks of the shorter prompted tower.

The sentences of an image are encoded anew for each image only where their prompts depend on it. k-means is
scikit-learn's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.errors import ConfigError, WeightsError
from zsad.methods.base import (
    DEFAULT_CLASS,
    Method,
    State,
    Support,
    TextState,
    TrainingRecipe,
    check_masks,
    check_names,
    check_tensors,
)
from zsad.methods.functional.losses import dice_loss, focal_loss
from zsad.methods.functional.maps import gaussian_filter, to_grid, upsample
from zsad.methods.functional.semantic_fusion import semantic_fusion
from zsad.methods.functional.similarity import cosine_similarity, similarity_softmax
from zsad.methods.prompts.hybrid import HybridPrompter, LinearHeads, encode_prompted, sentence_tokens
from zsad.methods.prompts.templates import (
    APRIL_GAN_ABNORMAL_STATES,
    APRIL_GAN_TEMPLATES,
    NORMAL_STATES,
    PromptSet,
    TextEnsemble,
)
from zsad.types import Activation, MethodInfo, PositionInterpolation, RawOutput

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP

PAPER_DEPTH = 4
CLUSTERED_SHARE = 0.2  # of the fused feature in the image's feature
PROMPTS = PromptSet(NORMAL_STATES, APRIL_GAN_ABNORMAL_STATES, APRIL_GAN_TEMPLATES[:4])
NORMAL_SENTENCES = len(PROMPTS.normal_states) * len(PROMPTS.templates)
TOWERS = ("visual", "text")
IN_FILE = "clip_model."
UNUSED_IN_FILE = "text_prompter.static_prompts.0"
PROMPTERS = tuple(f"{tower}_prompter" for tower in TOWERS)
GENERATORS = tuple(f"dynamic_{tower}_prompt_generator" for tower in TOWERS)
PROJECTIONS = ("patch_token_layer", "cls_token_layer")

INFO = MethodInfo(
    name="adaclip",
    title="AdaCLIP",
    year=2024,
    paper="https://arxiv.org/abs/2407.15795",
    code="https://github.com/caoyunkang/AdaCLIP",
    needs_training=True,
    uses_class_names=True,
    scores_batch_jointly=False,
)


@dataclass(frozen=True)
class Config:
    """Settings, by the names of the authors' code.

    Attributes:
        features_list: 1-based image blocks whose patches are used, kept in ascending order; None: the ends
            of the four quarters of the tower, (6, 12, 18, 24) of 24 blocks.
        prompting_depth: last prompted block of the prompted towers; None: 4, or as many as there are blocks.
        prompting_length: prompt tokens of a block.
        prompting_type: "S" static prompts, "D" dynamic ones, "SD" their sum.
        prompting_branch: "V" prompts in the image encoder, "L" in the text encoder, "VL" in both.
        use_hsf: whether the image's feature takes in the clusters of its most anomalous patches.
        k_clusters: of k-means; five times as many patches are clustered.
        sigma: of the Gaussian filter over the map, in pixels; 0 switches it off.
        temperature: of the softmax over normal and abnormal.
        row_wise_dice: whether the Dice losses are averaged over rows of pixels, as the authors' code does at
            its batch size of 1, or over images.
        round_prompts_to_half: whether prompts pass through half precision, as in the authors' code.
        activation: None: gelu on OpenAI's weights, else what the weights were trained with.
        position_interpolation: how the position table is resized to other image sizes.
    """

    features_list: tuple[int, ...] | None = None
    prompting_depth: int | None = None
    prompting_length: int = 5
    prompting_type: Literal["S", "D", "SD"] = "SD"
    prompting_branch: Literal["V", "L", "VL"] = "VL"
    use_hsf: bool = True
    k_clusters: int = 20
    sigma: float = 4.0
    temperature: float = 0.01
    row_wise_dice: bool = True
    round_prompts_to_half: bool = True
    activation: Activation | None = None
    position_interpolation: PositionInterpolation = "bicubic"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be above 0, got {self.temperature}")
        if not self.sigma >= 0:
            raise ConfigError(f"sigma must be 0 or more pixels, got {self.sigma}")
        if self.k_clusters < 1:
            raise ConfigError(f"k_clusters must be 1 or more, got {self.k_clusters}")
        if self.prompting_length < 1:
            raise ConfigError(f"prompting_length must be 1 token or more, got {self.prompting_length}")

    def resolved(self, vision_layers: int, text_layers: int) -> Config:
        """The same settings with everything that depends on the backbone filled in.

        Args:
            vision_layers: blocks of the image encoder.
            text_layers: blocks of the text encoder.

        Raises:
            ConfigError: a value is impossible for these towers; the message holds the allowed range.

        Example:
            >>> Config().resolved(24, 12).features_list, Config().resolved(3, 2).prompting_depth
            ((6, 12, 18, 24), 2)
        """
        layers = self.features_list
        if layers is None:
            layers = tuple({max(1, round(vision_layers * quarter / 4)) for quarter in (1, 2, 3, 4)})
        if not all(1 <= layer <= vision_layers for layer in layers):
            raise ConfigError(f"features_list {layers}: this image encoder has blocks 1 to {vision_layers}")
        if len(set(layers)) < len(layers):
            raise ConfigError(f"features_list {layers} names a block twice")
        towers = {"V": vision_layers, "L": text_layers}
        deepest = min(towers[branch] for branch in self.prompting_branch)
        depth = min(PAPER_DEPTH, deepest) if self.prompting_depth is None else self.prompting_depth
        if not 1 <= depth <= deepest:
            raise ConfigError(
                f"prompting_depth {depth}: these towers can be prompted in 1 to {deepest} blocks"
            )
        return replace(self, features_list=tuple(sorted(layers)), prompting_depth=depth)


@dataclass(frozen=True)
class OpenText(State):
    """The state where each image's dynamic prompts go into its sentences.

    Attributes:
        token_ids: (C, P, L) int64 of the normal, then the abnormal sentences.
    """

    token_ids: Tensor


@dataclass(frozen=True)
class Features:
    """What does not depend on what is learnt; prompts enter the image encoder, so there is little of it.

    Attributes:
        images: (B, 3, S, S) the images themselves.
        frozen_features: (B, E) float32 plain CLIP features, not normalised, from which dynamic prompts are
            made; (B, 0) without such prompts.
    """

    images: Tensor
    frozen_features: Tensor


class AdaCLIP(Method):
    """See the module's description."""

    SHAPE_FIELDS = frozenset(
        {"features_list", "prompting_depth", "prompting_length", "prompting_type", "prompting_branch"}
    )
    AUTHORS_ACTIVATION = "gelu"
    RECIPE = TrainingRecipe(
        epochs=5,
        batch_size=1,
        learning_rate=0.01,
        optimizer="adamw",
        weight_decay=0.01,
        precision="fp16",
        on={"mvtec": {"mosaic": 0.2}},
        notes="The authors keep the epoch with the best pixel F1 on another dataset's test set; here the "
        "last one is kept, since test labels choose nothing. Their half precision has no loss scaling, "
        "ours has.",
    )

    def __init__(self, backbone: CLIP, config: Config) -> None:
        """Fresh prompts and layers from torch's global random numbers.

        Raises:
            ConfigError: a setting is impossible for this backbone.
        """
        towers = backbone.config
        super().__init__(backbone, config.resolved(towers.vision.layers, towers.text.layers))
        self.layers: tuple[int, ...] = self.config.features_list
        length, context = self.config.prompting_length, towers.text.context_length
        if length >= context:
            raise ConfigError(f"prompting_length {length}: use 1 to {context - 1}")
        self.text = TextEnsemble(self.backbone, PROMPTS)
        vision_width, text_width, joint = towers.vision.width, towers.text.width, towers.embed_dim
        self.visual_prompter = self._prompter("V", first_block=1, width=vision_width)
        self.text_prompter = self._prompter("L", first_block=2, width=text_width)
        self.dynamic_visual_prompt_generator = self._generator(self.visual_prompter, joint, vision_width)
        self.dynamic_text_prompt_generator = self._generator(self.text_prompter, joint, text_width)
        self.patch_token_layer = LinearHeads(vision_width, joint, len(self.layers))
        self.cls_token_layer = LinearHeads(joint, joint, 1)

    def prepare(self, classes: Sequence[str], support: Support | None = None) -> TextState | OpenText:
        """The sentences of the classes, encoded already if no image has a say in them."""
        names = [name.replace("-", " ") for name in classes]
        if self.text_prompter is None:
            return TextState(self.text.encode(names))
        different = list(dict.fromkeys(names))
        device = self.backbone.text_projection.device
        rows = torch.tensor([different.index(name) for name in names], device=device)
        context = self.backbone.config.text.context_length
        token_ids = sentence_tokens(PROMPTS, different, context).to(device)
        if self.dynamic_text_prompt_generator is not None:
            return OpenText(token_ids[rows])
        encoded = encode_prompted(self.backbone, token_ids, NORMAL_SENTENCES, self.text_prompter)
        return TextState(encoded[rows])

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """The images, with the features that dynamic prompts are made from."""
        if "D" not in self.config.prompting_type:
            return Features(images, torch.empty(len(images), 0, device=images.device))
        return Features(images, self.backbone.encode_image(images).float())

    def score(self, features: Features, state: TextState | OpenText) -> RawOutput:
        """Abnormal probability of the image's feature, and of the patches over the mean of all blocks."""
        logits, probabilities = self._judge(features, state)
        size = int(features.images.shape[-1])  # a tracer gives a tensor here
        # Upsampling is linear, so the blocks can be averaged before it.
        maps = upsample(to_grid(logits.mean(dim=1)), size, align_corners=True)
        abnormal = torch.softmax(maps, dim=1)[:, 1]
        return RawOutput(probabilities[:, 1], gaussian_filter(abnormal, self.config.sigma))

    def loss_from_features(
        self, features: Features, masks: Tensor, labels: Tensor, classes: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Focal loss of the image, and focal and both Dice losses of the patches, summed over the blocks.

        L = Focal(p, y) + sum_l [ Focal(P_l, G) + Dice(P_l abnormal, G) + Dice(P_l normal, 1 - G) ]

        Source: AdaCLIP (2407.15795), section 3.5, as in the authors' code.

        Args:
            features: of the batch.
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
        blocks = maps.unbind(dim=1)
        return {
            "image": focal_loss(probabilities[:, :, None, None], labels[:, None, None]),
            "focal": torch.stack([focal_loss(block, masks) for block in blocks]).sum(),
            "dice_abnormal": torch.stack([self._dice(block[:, 1], masks) for block in blocks]).sum(),
            "dice_normal": torch.stack([self._dice(block[:, 0], 1 - masks) for block in blocks]).sum(),
        }

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Prompts, their generators and the projections, by the names of the authors' file."""
        for name, parameter in self.named_parameters():
            if not name.startswith("backbone."):
                yield name, parameter

    def load_official(self, state_dict: Mapping[str, Any]) -> None:
        """Takes the flat file `clip_model.<module>...` that the authors' training writes.

        Prompts of a kind or of a tower that the settings leave out are ignored.
        """
        parameters = dict(self.trainable())
        expected: dict[str, Tensor] = dict(parameters)
        if (text_prompt := expected.get("text_prompter.static_prompts.1")) is not None:
            expected[UNUSED_IN_FILE] = text_prompt
        used = {*PROJECTIONS, *(name.split(".")[0] for name in parameters)}
        left_out = {*PROMPTERS, *GENERATORS} - used
        found = {
            name: value
            for name, value in official_parameters(state_dict).items()
            if name.split(".")[0] not in left_out
        }
        check_names(INFO.name, expected=expected, found=found)
        self.load_learned({name: found[name] for name in parameters})

    @classmethod
    def official_config(cls, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """What the prompts' names and shapes tell.

        A file with both kinds of prompts, or with prompts of both towers, can be run without one of them, so
        it leaves type and branch open.
        """
        found = official_parameters(state_dict)
        static = [numbers_of(found, f"{prompter}.static_prompts") for prompter in PROMPTERS]
        dynamic = [numbers_of(found, f"{generator}.head") for generator in GENERATORS]
        visual, text = static if any(static) else dynamic
        config: dict[str, Any] = {}
        if any(static) != any(dynamic):
            config["prompting_type"] = "S" if any(static) else "D"
        if bool(visual) != bool(text):
            config["prompting_branch"] = "V" if visual else "L"
        if any(static):
            prompts = next(value for name, value in found.items() if ".static_prompts." in name)
            config["prompting_depth"] = max(visual | text) + 1
            config["prompting_length"] = prompts.shape[0] if prompts.ndim else 0
        elif any(dynamic):
            config["prompting_length"] = max(visual | text) + 1
        return config

    def _prompter(self, branch: str, first_block: int, width: int) -> HybridPrompter | None:
        """The prompts of the tower of a branch, if any of its blocks is to be prompted."""
        config = self.config
        blocks = range(first_block, config.prompting_depth + 1)
        if branch not in config.prompting_branch or not blocks:
            return None
        return HybridPrompter(
            blocks,
            config.prompting_length,
            width,
            static="S" in config.prompting_type,
            round_to_half=config.round_prompts_to_half,
        )

    def _generator(self, prompter: HybridPrompter | None, inputs: int, width: int) -> LinearHeads | None:
        """What makes dynamic prompts for a prompted tower, if there are to be any."""
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
        """The images in the joint space, as the prompted tower and the learnt projections see them.

        Returns:
            (B, E) class token and (B, T, N, E) patches of the used blocks, float32, all of length 1.
        """
        visual, images = self.backbone.visual, features.images
        prompts = None
        if self.visual_prompter is not None:
            dynamic = dynamic_prompts(self.dynamic_visual_prompt_generator, features)
            prompts = self.visual_prompter(dynamic, len(images))
        output = visual(images, taps=self.layers, deep_prompts=prompts)
        patches = self.patch_token_layer.each([output.tokens[layer][:, 1:].float() for layer in self.layers])
        image = self.cls_token_layer(visual.project(output.class_token).float())[:, 0]
        return F.normalize(image, dim=-1), F.normalize(patches, dim=-1)

    def _text_features(self, features: Features, state: TextState | OpenText) -> Tensor:
        """(C or B, 2, E) float32 of length 1, normal then abnormal; encoded anew where images matter."""
        if isinstance(state, TextState):
            return state.text_features
        dynamic = dynamic_prompts(self.dynamic_text_prompt_generator, features)
        return encode_prompted(self.backbone, state.token_ids, NORMAL_SENTENCES, self.text_prompter, dynamic)

    def _dice(self, probabilities: Tensor, masks: Tensor) -> Tensor:
        """Dice loss of (B, S, S), averaged over rows of pixels or over images."""
        if self.config.row_wise_dice:
            return dice_loss(probabilities.flatten(0, 1), masks.flatten(0, 1))
        return dice_loss(probabilities, masks)


def dynamic_prompts(generator: LinearHeads | None, features: Features) -> Tensor | None:
    """(B, n, D) prompts made from the images; None without a generator."""
    return None if generator is None else generator(features.frozen_features)


def official_parameters(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of an authors' file by their names inside the method.

    Raises:
        WeightsError: it is not such a file.
    """
    if not any(str(name).startswith(f"{IN_FILE}patch_token_layer.") for name in state_dict):
        raise WeightsError(
            f"not a file of AdaCLIP's authors: expected names like {IN_FILE}patch_token_layer.head.0.weight, "
            f"found {', '.join(map(str, list(state_dict)[:5])) or 'nothing'}"
        )
    found = {str(name).removeprefix(IN_FILE): value for name, value in state_dict.items()}
    check_tensors("AdaCLIP's authors", found)
    return found


def numbers_of(found: Mapping[str, Tensor], list_name: str) -> set[int]:
    """The numbers N of the entries "list_name.N" or "list_name.N.weight"."""
    pattern = re.compile(rf"{re.escape(list_name)}\.(\d+)(\.weight)?")
    return {int(match[1]) for match in map(pattern.fullmatch, found) if match}
