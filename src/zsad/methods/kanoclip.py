"""KAnoCLIP: anomaly detection through knowledge-driven prompt learning; a reconstruction.

Li et al., ICASSP 2025, https://arxiv.org/abs/2501.03786; the authors published no code and no weights, and
this file was written from the abstract and summaries of the paper. Its numbers are not the paper's.

Idea: a normal and an abnormal prompt are learnt, as in AnomalyCLIP, and drawn towards sentences that describe
what anomalies look like, so that they stay close to what language says about them and generalise better. Text
and patches exchange what they know by cross-attention in both directions, and a small convolution adapts the
feature of the image.

Confirmed (abstract and summaries of the paper):

* a knowledge base of descriptions of anomalies guides learnable, class-agnostic normal and abnormal prompts
  through a loss that makes their distance to the descriptions small; no fixed prompts are used at test time;
* value-value attention in CLIP's image encoder;
* bi-directional cross-attention between text and features of several layers of the image encoder;
* a convolutional adapter that aligns the feature of the image with text;
* the loss is the sum of the distance to the knowledge, a loss of the image and a loss of the pixels, with
  equal weights of 1 (`kd_weight`, `global_weight`, `local_weight`).

Our design, where nothing is known:

* the skeleton is AnomalyCLIP's (prompts about "object" with 12 context vectors, deep prompts, rounding,
  temperature 0.07, optimiser and 15 epochs), at the ends of the quarters of the image encoder; the map is the
  sum over layers;
* knowledge: 20 normal and 40 abnormal sentences of our own (`zsad/methods/prompts/knowledge.yaml`) in place
  of GPT-3.5's. `knowledge` takes a file of the same form, or in Python a function that may ask a language
  model: it is asked once, about "object", when the method is built, and its sentences are saved with the
  settings;
* distance to the knowledge: 1 - cosine to the mean of the unit vectors of the sentences, for both prompts;
* cross-attention: one pair of attentions with 4 heads for all layers, added to unit vectors;
* adapter: 1x1, depthwise 3x3 and 1x1 convolutions through a quarter of the width on the patches of the last
  used layer, their mean added to the class token with weight 0.1;
* loss of the image: cross entropy with the text after the exchange in the last used layer; loss of the
  pixels: focal and both Dice losses of each layer.

Both modules learn at a hundredth of the prompts' rate: at the same rate the cross-attention took over, and on
synthetic images the maps fell to a pixel AUROC of 0.6 within two epochs (0.9 with the slower rate). Both
start as good as switched off, so that an untrained method is AnomalyCLIP's skeleton.

Not built: descriptions of the single image by a visual question answering system on Llama 3, which the paper
adds to the general ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.files.fields import Count  # noqa: TC001 - `check_bounds` reads the annotations
from zsad.methods.base import DEFAULT_CLASS, Method, Support, TextState, Weight
from zsad.methods.functional.checks import check_masks
from zsad.methods.functional.losses import pixel_losses
from zsad.methods.functional.maps import abnormal_map, to_grid, upsample
from zsad.methods.functional.patches import JointFeatures, layers_to_use
from zsad.methods.functional.similarity import cosine_similarity, similarity_softmax
from zsad.methods.prompts.interaction import ConvAdapter, CrossModalInteraction
from zsad.methods.prompts.knowledge import KnowledgeSource, find_knowledge
from zsad.methods.prompts.object_agnostic import ObjectAgnosticConfig, ObjectAgnosticPrompts
from zsad.methods.prompts.templates import TextEnsemble
from zsad.methods.training import TrainingDefaults
from zsad.types import MethodInfo, RawOutput

if TYPE_CHECKING:
    from typing_extensions import Self

    from zsad.backbones.clip import CLIP, ClipConfig

INFO = MethodInfo(
    name="kanoclip",
    title="KAnoCLIP",
    year=2025,
    paper="https://arxiv.org/abs/2501.03786",
    code=None,
    needs_training=True,
    uses_class_names=False,
    scores_batch_jointly=False,
    is_reconstruction=True,
)


@dataclass(frozen=True, kw_only=True)
class Config(ObjectAgnosticConfig):
    """AnomalyCLIP's settings, and those of the knowledge and of the interaction.

    Attributes:
        features_list: 1-based layers of the image encoder whose patches are compared with the prompts; None
            for the ends of the four quarters, (6, 12, 18, 24) of 24 layers.
        knowledge: sentences that the prompts are drawn towards in training: the path of a YAML file with the
            lists `normal` and `abnormal`, or in Python a function from "object" to both lists by name; None
            for the list that ships.
        kd_weight: weight of the distance to the knowledge.
        global_weight: weight of the loss of the image.
        local_weight: weight of the losses of the pixels.
        heads: number of heads of the cross-attention.
    """

    knowledge: KnowledgeSource | None = None
    kd_weight: Weight = 1.0
    global_weight: Weight = 1.0
    local_weight: Weight = 1.0
    heads: Count = 4

    def resolved(self, towers: ClipConfig) -> Self:
        """The same settings with the sentences, and with everything that depends on the backbone, filled in.

        Args:
            towers: shape of the image encoder and the text encoder.

        Raises:
            ConfigError: a value is impossible for these encoders, or the knowledge is broken.
        """
        chosen = replace(
            self,
            features_list=layers_to_use(self.features_list, towers.vision.layers),
            knowledge=find_knowledge(self.knowledge, DEFAULT_CLASS),
        )
        return super(Config, chosen).resolved(towers)


class KAnoCLIP(Method[Config, JointFeatures, TextState]):
    """See the module's description."""

    SHAPE_FIELDS = frozenset({"n_ctx", "depth", "t_n_ctx", "heads"})
    AUTHORS_ACTIVATION = "quick_gelu"
    FEATURES = JointFeatures
    FEATURE_FIELDS = frozenset({"features_list", "dpam_layer"})
    IMAGE_TERMS = frozenset({"knowledge", "image"})
    TRAINING = TrainingDefaults(
        epochs=15,
        batch_size=8,
        learning_rate=1e-3,
        rates=(("interaction.", 0.01), ("adapter.", 0.01)),
        notes="AnomalyCLIP's settings: the authors' own are not known. Cross-attention and adapter learn 100 "
        "times more slowly than the prompts.",
    )

    def __init__(self, backbone: CLIP, config: Config) -> None:
        """Fresh prompts and layers from torch's global random numbers.

        Raises:
            ConfigError: a setting is impossible for this backbone, or the knowledge is broken.
        """
        super().__init__(backbone, config.resolved(backbone.config))
        width = backbone.config.embed_dim
        self.prompts = ObjectAgnosticPrompts(self.backbone, self.config)
        self.interaction = CrossModalInteraction(width, self.config.heads)
        self.adapter = ConvAdapter(width)
        sentences = find_knowledge(self.config.knowledge, DEFAULT_CLASS)
        self.knowledge = TextEnsemble(self.backbone, sentences.prompts)

    def prepare(self, classes: Sequence[str], support: Support | None = None) -> TextState:
        """The two learnt prompts; they are the same for every class."""
        return TextState(self.prompts.encode(self.backbone))

    @torch.no_grad()
    def features(self, images: Tensor) -> JointFeatures:
        """One pass through the image encoder; no gradients, because nothing in it is learnt."""
        return self.prompts.features(self.backbone, images)

    def score(self, features: JointFeatures, state: TextState) -> RawOutput:
        """Abnormal probability of the adapted class token; that of the patches summed over the layers."""
        logits, patches = self._judge(features, state.text_features)
        once = [1.0] * len(self.prompts.layers)
        size = features.image_size(self.backbone.config.vision.patch_size)
        scores = torch.softmax(logits, dim=-1)[:, 1]
        return RawOutput(scores, abnormal_map(patches, once, size, self.config.sigma))

    @property
    def map_range(self) -> tuple[float, float]:
        """One probability for each layer."""
        return (0.0, float(len(self.prompts.layers)))

    def loss_from_features(
        self, features: JointFeatures, masks: Tensor, labels: Tensor, classes: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Distance to the knowledge, cross entropy of the image, and focal and Dice losses of the layers.

        L = kd_weight L_KD + global_weight L_global + local_weight L_local

        Source: KAnoCLIP (2501.03786), the total loss; the module's description says which parts are ours.

        Args:
            features: features of the batch.
            masks: (B, S, S) or (B, 1, S, S) in {0, 1}.
            labels: (B,) in {0, 1}.
            classes: not used.

        Returns:
            "knowledge", "image", "focal", "dice_abnormal" and "dice_normal", weights included.
        """
        text = self.prompts.encode(self.backbone)
        logits, patches = self._judge(features, text)
        size = features.image_size(self.backbone.config.vision.patch_size)
        masks = check_masks(masks, len(logits), size)
        weights = [self.config.local_weight] * len(self.prompts.layers)
        known = self.knowledge.encode([DEFAULT_CLASS])
        return {
            "knowledge": self.config.kd_weight * knowledge_distance(text[0], known[0]),
            "image": self.config.global_weight * F.cross_entropy(logits, labels.long()),
            **pixel_losses(upsample(to_grid(patches), size), masks, weights),
        }

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The prompts by the names of AnomalyCLIP's file, then the cross-attention and the adapter."""
        yield from self.prompts.learner.named_parameters()
        yield from self.interaction.named_parameters(prefix="interaction")
        yield from self.adapter.named_parameters(prefix="adapter")

    def _judge(self, features: JointFeatures, text_features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the images (B, 2) and probabilities of the patches (B, T, N, 2), normal then abnormal.

        Args:
            features: features of the batch.
            text_features: (1, 2, E) encoded prompts, of any length.
        """
        temperature = self.config.temperature
        patches = F.normalize(features.patch_features, dim=-1)  # (B, T, N, E)
        images, layers = patches.shape[:2]
        text = F.normalize(text_features, dim=-1).expand(images * layers, -1, -1)
        text, interacted = self.interaction(text, patches.flatten(0, 1))
        probabilities = similarity_softmax(interacted, text, temperature)
        last_text = text.reshape(images, layers, *text.shape[1:])[:, -1]
        image = self.adapter(F.normalize(features.image_features, dim=-1), patches[:, -1])
        logits = cosine_similarity(image, last_text) / temperature
        return logits, probabilities.reshape(images, layers, *probabilities.shape[1:])


def knowledge_distance(text_features: Tensor, knowledge_features: Tensor) -> Tensor:
    """Distance of the prompts to the knowledge: the sum of 1 - cosine over normal and abnormal.

    Source: the distillation loss of KAnoCLIP (2501.03786), in a form of our own.

    Args:
        text_features: (2, E) of any length, normal then abnormal.
        knowledge_features: (2, E) of any length, normal then abnormal.

    Returns:
        Scalar in [0, 4].

    Example:
        >>> knowledge = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> knowledge_distance(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), knowledge)
        tensor(1.)
    """
    return (1 - F.cosine_similarity(text_features, knowledge_features, dim=-1)).sum()
