"""FAPrompt: 2410.10289, section 3, and the authors' test script."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from plain.encoders import image_encoder, text_encoder
from plain.maps import abnormal_map, cosines, smoothed
from zsad.backbones.tokenizer import tokenize

if TYPE_CHECKING:
    from plain import Scorer
    from zsad.methods.base import Method


def plain(method: Method) -> Scorer:
    """Makes the plain implementation with the weights of the method."""
    encoder, texts, settings = image_encoder(method.backbone), text_encoder(method.backbone), method.config
    learnt, context = method.prompt_learner, method.backbone.config.text.context_length
    placeholders = [
        tokenize(" ".join(["N"] * length) + ending, context)
        for length, ending in (
            (settings.n_ctx_pos, " object."),
            (settings.n_ctx_pos + settings.n_ctx_neg, " damaged object."),
        )
    ]
    static = method.prepare(())
    first_text = torch.stack([static.normal[0], static.abnormal.mean(dim=0)])

    def encoded(ids: Tensor, contexts: Tensor) -> Tensor:
        rows = method.backbone.embed_tokens(ids).repeat(len(contexts), 1, 1)
        rows[:, 1 : 1 + contexts.shape[1]] = contexts
        return texts.encode(rows, ids.argmax(dim=-1).repeat(len(rows)), list(learnt.compound_prompts_text))

    def adapted_text(patches: Tensor) -> Tensor:
        bias = learnt.patch_meta_net(patches.flatten(1))
        pairs = []
        for shift in bias:
            shared = learnt.ctx_pos[0].expand(settings.num_p, -1, -1)
            abnormal = encoded(placeholders[1], torch.cat([shared, learnt.ctx_neg[0] + shift], dim=1))
            normal = encoded(placeholders[0], learnt.ctx_pos[0])
            pairs.append(torch.stack([normal[0], abnormal.mean(dim=0)]))
        return torch.stack(pairs)

    @torch.inference_mode()
    def score(images: Tensor) -> tuple[Tensor, Tensor]:
        original, values = encoder.two_streams(images, method.value_value_from)
        image = encoder.projected(original[encoder.layers][:, 0])
        patches = F.normalize(encoder.joint(values[encoder.layers][:, 1:]), dim=-1)
        first = (cosines(patches, first_text) / settings.temperature).softmax(dim=-1)
        if settings.topk_selection == "as_published":
            chosen = patches[:, : settings.k]
        else:
            order = first[..., 1].argsort(dim=1, descending=True)[:, : settings.k]
            chosen = torch.stack([rows[index] for rows, index in zip(patches, order, strict=True)])
        text = adapted_text(chosen)
        second = (cosines(patches, text) / settings.temperature).softmax(dim=-1)
        logits = cosines(image[:, None], text)[:, 0] / settings.temperature
        largest = (2 * first[..., 1].amax(dim=1) + second[..., 1].amax(dim=1)) / 3
        scores = 0.5 * (logits.softmax(dim=-1)[:, 1] + largest)
        size = images.shape[-1]
        maps = (abnormal_map(first, size) + abnormal_map(second, size)) / 2
        return scores, smoothed(maps, settings.sigma)

    return score
