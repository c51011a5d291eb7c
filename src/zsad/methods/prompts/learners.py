"""Learnt prompts: context vectors inside a prompt and deep prompts inside the text encoder.

Shapes: P prompts, L tokens, D text width, n context vectors, m deep prompt vectors, E joint width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zsad.backbones.attention import DeepPrompts
from zsad.backbones.tokenizer import tokenize
from zsad.errors import ConfigError

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP, TextConfig

INITIAL_STD = 0.02
ENDINGS = ("object.", "damaged object.")


def splice_context(embeddings: Tensor, context: Tensor) -> Tensor:
    """Replaces the tokens after the start mark by context vectors.

    Args:
        embeddings: (P, L, D) embeddings of the tokenised placeholder prompts.
        context: (P, n, D), n < L.

    Returns:
        (P, L, D); rows 1 to n are the context, the others are unchanged.

    Example:
        >>> splice_context(torch.zeros(1, 4, 1), torch.ones(1, 2, 1)).flatten().tolist()
        [0.0, 1.0, 1.0, 0.0]
    """
    return torch.cat([embeddings[:, :1], context, embeddings[:, 1 + context.shape[1] :]], dim=1)


def placeholder_tokens(length: int, ending: str, context_length: int, placeholder: str = "X") -> Tensor:
    """Token ids of a prompt whose first words context vectors replace.

    Args:
        length: number of context vectors.
        ending: words that follow the context vectors ("damaged object.").
        context_length: largest number of tokens that the text encoder reads.
        placeholder: any word of one token; it has no influence.

    Returns:
        (1, context_length) int64.

    Raises:
        ConfigError: the prompt does not fit; the message names the largest length that does.
    """
    fixed = int((tokenize(ending, context_length) != 0).sum())
    if not 1 <= length <= context_length - fixed:
        raise ConfigError(
            f"{length} context vectors do not fit before {ending!r} into {context_length} tokens: "
            f"use 1 to {context_length - fixed}"
        )
    return tokenize(" ".join([placeholder] * length + [ending]), context_length)


def round_to_half(deep_prompts: Tensor, copies: int) -> Tensor:
    """Rounds deep prompts, and on the way back their gradients, to half precision, once per prompt.

    AnomalyCLIP's code casts the deep prompts with `.half()` inside a network that is otherwise float32. The
    gradients of its prompts are rounded before they are added up, so the copies are made before rounding.

    Args:
        deep_prompts: (m, D).
        copies: P, one for each prompt.

    Returns:
        (P, m, D) in the type of `deep_prompts`.
    """
    return deep_prompts.expand(copies, -1, -1).half().to(deep_prompts.dtype)


def fresh_deep_prompts(
    text: TextConfig, depth: int, t_n_ctx: int, generator: torch.Generator | None = None
) -> nn.ParameterList:
    """Deep prompts of the layers 2 to `depth` of a text encoder, drawn from N(0, 0.02^2).

    Args:
        text: shape of the text encoder.
        depth: last layer with a deep prompt; 1 for none.
        t_n_ctx: m, number of deep prompt vectors in a layer.
        generator: source of the random numbers; None for torch's global one.

    Returns:
        depth - 1 tensors (m, D).

    Raises:
        ConfigError: depth or t_n_ctx is impossible for this text encoder.
    """
    if not 1 <= depth <= text.layers:
        raise ConfigError(
            f"depth {depth}: this text encoder has {text.layers} layers, use 1 to {text.layers}"
        )
    if not 1 <= t_n_ctx < text.context_length:
        raise ConfigError(f"t_n_ctx {t_n_ctx}: use 1 to {text.context_length - 1}")
    return nn.ParameterList(fresh_parameter((t_n_ctx, text.width), generator) for _ in range(depth - 1))


def from_layer_2(deep_prompts: Iterable[Tensor], copies: int, rounded: bool) -> DeepPrompts:
    """Deep prompts in the form that the text encoder takes.

    Args:
        deep_prompts: tensors (m, D) for the layers 2, 3, ...
        copies: number of prompts that enter the text encoder.
        rounded: whether they pass through half precision, as `round_to_half` does it.
    """
    return DeepPrompts(
        {
            layer: round_to_half(vectors, copies) if rounded else vectors
            for layer, vectors in enumerate(deep_prompts, start=2)
        }
    )


def unchanged(features: Tensor) -> Tensor:
    """Returns its argument; the default when there is only one device."""
    return features


class PromptLearner(nn.Module):
    """Prompts with learnt context vectors, and deep prompts that serve all of them.

    Before the layers 2 to `depth` of the text encoder, learnt vectors replace the hidden states at positions
    1 to m. They are the same for all prompts.

    Source: AnomalyCLIP (2310.18961), section 3.2.

    Attributes:
        tokens: (P, L) token ids of the prompts, with placeholders in the place of context vectors, cut after
            the longest prompt.
        compound_prompts_text: depth - 1 tensors (m, D), the deep prompts of layers 2 to depth.
        joined: hook applied to the encoded prompts; multi-device training sums gradients there.
    """

    tokens: Tensor

    def __init__(
        self,
        backbone: CLIP,
        tokens: Sequence[Tensor],
        contexts: Mapping[str, int],
        *,
        depth: int,
        t_n_ctx: int,
        round_prompts_to_half: bool,
        generator: torch.Generator | None = None,
    ) -> None:
        """Fresh parameters, normal with standard deviation 0.02.

        Args:
            backbone: network whose text encoder reads the prompts.
            tokens: P tensors (1, L).
            contexts: name of a parameter (1, 1, n, D) -> its n.
            depth: last layer with a deep prompt; 1 for none.
            t_n_ctx: m, number of deep prompt vectors in a layer.
            round_prompts_to_half: whether deep prompts pass through half precision, as in AnomalyCLIP's code.
            generator: source of the random numbers; None for torch's global one.

        Raises:
            ConfigError: depth or t_n_ctx is impossible for this text encoder.
        """
        super().__init__()
        self.joined: Callable[[Tensor], Tensor] = unchanged
        self.round_prompts_to_half = round_prompts_to_half
        whole = torch.cat(list(tokens))
        longest = int(whole.argmax(dim=-1).max()) + 1
        self.register_buffer("tokens", whole[:, :longest], persistent=False)
        text = backbone.config.text
        for name, length in contexts.items():
            self.register_parameter(name, fresh_parameter((1, 1, length, text.width), generator))
        self.compound_prompts_text = fresh_deep_prompts(text, depth, t_n_ctx, generator)

    def contexts(self) -> Sequence[Tensor]:
        """The context vectors (n, D) of each of the P prompts."""
        raise NotImplementedError

    def encode(self, backbone: CLIP) -> Tensor:
        """The prompts in the joint space.

        Args:
            backbone: the network that the learner was made for.

        Returns:
            (P, E) float32, not normalised.
        """
        ends = self.tokens.argmax(dim=-1)
        return self.joined(self.encode_spliced(backbone, self.spliced(backbone), ends))

    def spliced(self, backbone: CLIP) -> Tensor:
        """(P, L, D) token embeddings of the prompts, with the context vectors in their places."""
        embeddings = backbone.embed_tokens(self.tokens)
        return torch.cat(
            [
                splice_context(prompt[None], context[None].to(embeddings.dtype))
                for prompt, context in zip(embeddings, self.contexts(), strict=True)
            ]
        )

    def encode_spliced(self, backbone: CLIP, embeddings: Tensor, ends: Tensor) -> Tensor:
        """Prompts in the joint space, with the deep prompts.

        Args:
            backbone: the network that the learner was made for.
            embeddings: (M, L, D) token embeddings of M prompts.
            ends: (M,) index of the end mark of each prompt.

        Returns:
            (M, E) float32, not normalised.
        """
        deep_prompts = from_layer_2(
            self.compound_prompts_text, embeddings.shape[0], self.round_prompts_to_half
        )
        return backbone.encode_embeddings(embeddings, ends, deep_prompts).float()


class PromptPairLearner(PromptLearner):
    """A learnt normal and a learnt abnormal prompt about an object of no particular class.

    normal:   [start] V_1 ... V_n object . [end]
    abnormal: [start] W_1 ... W_n damaged object . [end]

    `encode` returns them in this order. Parameter names are those of AnomalyCLIP's released file.

    Source: AnomalyCLIP (2310.18961), section 3.2.

    Attributes:
        ctx_pos: (1, 1, n, D) the V of the normal prompt.
        ctx_neg: (1, 1, n, D) the W of the abnormal prompt.
    """

    ctx_pos: nn.Parameter
    ctx_neg: nn.Parameter

    def __init__(self, backbone: CLIP, *, n_ctx: int, **settings: Any) -> None:
        """Fresh parameters.

        Args:
            backbone: network whose text encoder reads the prompts.
            n_ctx: n, number of context vectors in each prompt.
            settings: remaining arguments of `PromptLearner`.

        Raises:
            ConfigError: a value is impossible for this text encoder.
        """
        context_length = backbone.config.text.context_length
        tokens = [placeholder_tokens(n_ctx, ending, context_length) for ending in ENDINGS]
        super().__init__(backbone, tokens, {"ctx_pos": n_ctx, "ctx_neg": n_ctx}, **settings)

    def contexts(self) -> Sequence[Tensor]:
        """V, then W."""
        return self.ctx_pos[0, 0], self.ctx_neg[0, 0]


class GlocalPromptLearner(PromptLearner):
    """Two learnt pairs of prompts: a global pair for the score of the image, a local pair for its patches.

    normal:   [start] V_1 ... V_n object . [end]
    abnormal: [start] V_1 ... V_n W_1 ... W_k damaged object . [end]

    The abnormal prompt of a pair starts with the context of the normal prompt. `encode` returns global
    normal, global abnormal, local normal, local abnormal. Parameter names are those of GlocalCLIP's released
    file.

    Source: GlocalCLIP (2411.06071), section on object-agnostic glocal semantic prompts.

    Attributes:
        ctx_global_pos: (1, 1, n, D) the V of the global pair.
        ctx_global_neg: (1, 1, k, D) the W of the global pair.
        ctx_local_pos: (1, 1, n, D) the V of the local pair.
        ctx_local_neg: (1, 1, k, D) the W of the local pair.
    """

    ctx_global_pos: nn.Parameter
    ctx_global_neg: nn.Parameter
    ctx_local_pos: nn.Parameter
    ctx_local_neg: nn.Parameter

    def __init__(self, backbone: CLIP, *, n_ctx: int, ab_ctx: int, **settings: Any) -> None:
        """Fresh parameters.

        Args:
            backbone: network whose text encoder reads the prompts.
            n_ctx: n, number of context vectors in a normal prompt.
            ab_ctx: k, number of context vectors that an abnormal prompt adds.
            settings: remaining arguments of `PromptLearner`.

        Raises:
            ConfigError: a value is impossible for this text encoder.
        """
        for name, length in (("n_ctx", n_ctx), ("ab_ctx", ab_ctx)):
            if length < 1:
                raise ConfigError(f"{name} {length}: use 1 or more context vectors")
        context_length = backbone.config.text.context_length
        tokens = [
            placeholder_tokens(length, ending, context_length, placeholder)
            for placeholder in ("G", "L")
            for length, ending in zip((n_ctx, n_ctx + ab_ctx), ENDINGS, strict=True)
        ]
        lengths = {"pos": n_ctx, "neg": ab_ctx}
        contexts = {
            f"ctx_{pair}_{kind}": length for pair in ("global", "local") for kind, length in lengths.items()
        }
        super().__init__(backbone, tokens, contexts, **settings)

    def contexts(self) -> Sequence[Tensor]:
        """V, then V and W, of the global pair and of the local one."""
        pairs = ((self.ctx_global_pos, self.ctx_global_neg), (self.ctx_local_pos, self.ctx_local_neg))
        return [
            context
            for normal, abnormal in pairs
            for context in (normal[0, 0], torch.cat([normal[0, 0], abnormal[0, 0]]))
        ]


def fresh_parameter(shape: tuple[int, ...], generator: torch.Generator | None = None) -> nn.Parameter:
    """A parameter drawn from N(0, 0.02^2).

    Args:
        shape: shape of the tensor.
        generator: source of the random numbers; None for torch's global one.

    Returns:
        The parameter, on the CPU.
    """
    return nn.Parameter(torch.randn(shape, generator=generator) * INITIAL_STD)
