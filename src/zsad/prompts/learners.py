"""Learnt prompts: context vectors inside a sentence and deep prompts inside the text tower.

Shapes: P sentences, L tokens, D text width, n context vectors, m deep prompt vectors, E joint width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zsad.backbones.attention import DeepPrompts
from zsad.backbones.tokenizer import tokenize
from zsad.errors import ConfigError

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP

INITIAL_STD = 0.02
PLACEHOLDER = "X"


def splice_context(embeddings: Tensor, context: Tensor) -> Tensor:
    """Puts context vectors in the place of the tokens after the start mark.

    Args:
        embeddings: (P, L, D) of the tokenised placeholder sentences.
        context: (P, n, D), n < L.

    Returns:
        (P, L, D); rows 1 to n are the context, the others are unchanged.

    Example:
        >>> splice_context(torch.zeros(1, 4, 1), torch.ones(1, 2, 1)).flatten().tolist()
        [0.0, 1.0, 1.0, 0.0]
    """
    return torch.cat([embeddings[:, :1], context, embeddings[:, 1 + context.shape[1] :]], dim=1)


def placeholder_tokens(length: int, ending: str, context_length: int) -> Tensor:
    """Token ids of a sentence whose first words are to be replaced by context vectors.

    Args:
        length: number of context vectors.
        ending: the words that follow them ("damaged object.").
        context_length: longest sentence that the text tower reads.

    Returns:
        (1, context_length) int64.

    Raises:
        ConfigError: the sentence would not fit; the message names the largest length that does.
    """
    fixed = int((tokenize(ending, context_length) != 0).sum())
    if not 1 <= length <= context_length - fixed:
        raise ConfigError(
            f"{length} context vectors do not fit before {ending!r} into {context_length} tokens: "
            f"use 1 to {context_length - fixed}"
        )
    return tokenize(" ".join([PLACEHOLDER] * length + [ending]), context_length)


def round_to_half(prompts: Tensor, sentences: int) -> Tensor:
    """Rounds prompts, and on the way back their gradients, to half precision, once per sentence.

    AnomalyCLIP's code casts the deep prompts with `.half()` inside a network that is otherwise float32. The
    gradients of its sentences are rounded before they are added up, which is why the copies are made first.

    Args:
        prompts: (m, D).
        sentences: P.

    Returns:
        (P, m, D) in the type of `prompts`.
    """
    return prompts.expand(sentences, -1, -1).half().to(prompts.dtype)


class PromptPairLearner(nn.Module):
    """A learnt normal and a learnt abnormal sentence about an object of no particular class.

    normal:   [start] V_1 ... V_n object . [end]
    abnormal: [start] W_1 ... W_n damaged object . [end]

    Before the text blocks 2 to `depth` the hidden states at positions 1 to m are replaced by learnt ones, the
    same for both sentences. Parameter names are those of AnomalyCLIP's released file.

    Source: AnomalyCLIP (2310.18961), section 3.2.

    Attributes:
        ctx_pos: (1, 1, n, D) the V of the normal sentence.
        ctx_neg: (1, 1, n, D) the W of the abnormal sentence.
        compound_prompts_text: depth - 1 tensors (m, D), the deep prompts of blocks 2 to depth.
    """

    tokens: Tensor

    def __init__(
        self,
        backbone: CLIP,
        *,
        n_ctx: int,
        depth: int,
        t_n_ctx: int,
        round_prompts_to_half: bool,
        generator: torch.Generator | None = None,
    ) -> None:
        """Fresh parameters, normal with standard deviation 0.02.

        Args:
            backbone: whose text tower reads the sentences.
            n_ctx: n.
            depth: last text block with a deep prompt; 1 means none.
            t_n_ctx: m.
            round_prompts_to_half: whether deep prompts pass through half precision, as in the authors' code.
            generator: source of the random numbers; None for torch's global one.

        Raises:
            ConfigError: a value is impossible for this text tower.
        """
        super().__init__()
        text = backbone.config.text
        if not 1 <= depth <= text.layers:
            raise ConfigError(
                f"depth {depth}: this text tower has {text.layers} blocks, use 1 to {text.layers}"
            )
        if not 1 <= t_n_ctx < text.context_length:
            raise ConfigError(f"t_n_ctx {t_n_ctx}: use 1 to {text.context_length - 1}")
        endings = ("object.", "damaged object.")
        tokens = [placeholder_tokens(n_ctx, ending, text.context_length) for ending in endings]
        self.round_prompts_to_half = round_prompts_to_half
        self.register_buffer("tokens", torch.cat(tokens), persistent=False)
        self.ctx_pos = fresh_parameter((1, 1, n_ctx, text.width), generator)
        self.ctx_neg = fresh_parameter((1, 1, n_ctx, text.width), generator)
        self.compound_prompts_text = nn.ParameterList(
            fresh_parameter((t_n_ctx, text.width), generator) for _ in range(depth - 1)
        )

    def encode(self, backbone: CLIP) -> Tensor:
        """The two sentences in the joint space.

        Args:
            backbone: the network that the learner was made for.

        Returns:
            (2, E) float32, normal then abnormal, not normalised.
        """
        embeddings = backbone.embed_tokens(self.tokens)
        context = torch.cat([self.ctx_pos[0], self.ctx_neg[0]]).to(embeddings.dtype)
        prompts = {
            block: round_to_half(prompt, len(embeddings)) if self.round_prompts_to_half else prompt
            for block, prompt in enumerate(self.compound_prompts_text, start=2)
        }
        features = backbone.encode_embeddings(
            splice_context(embeddings, context), self.tokens.argmax(dim=-1), DeepPrompts(prompts)
        )
        return features.float()


def fresh_parameter(shape: tuple[int, ...], generator: torch.Generator | None = None) -> nn.Parameter:
    """A parameter drawn from N(0, 0.02^2).

    Args:
        shape: of the tensor.
        generator: source of the random numbers; None for torch's global one.

    Returns:
        The parameter, on the CPU.
    """
    return nn.Parameter(torch.randn(shape, generator=generator) * INITIAL_STD)
