"""GenCLIP: 2504.14919, as zsad completes it (the paper leaves parts open)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plain.encoders import image_encoder, text_encoder
from plain.maps import cosines, enlarged, smoothed
from zsad.backbones.tokenizer import tokenize

if TYPE_CHECKING:
    from plain import Scorer
    from zsad.methods.base import Method


def plain(method: Method) -> Scorer:
    """Makes the plain implementation with the weights of the method, for the class name "object".

    Class name filtering has no choice there: both names are the same.
    """
    encoder, texts, settings = image_encoder(method.backbone), text_encoder(method.backbone), method.config
    learnt = method.prompts
    start = " ".join(["X"] * settings.n_query)
    ids = tokenize(
        [f"{start} object.", f"{start} damaged object."], method.backbone.config.text.context_length
    )
    query_text = method.prepare(["object"]).query_features[0]

    def encoded(query: Tensor) -> Tensor:
        rows = method.backbone.embed_tokens(ids).clone()
        rows[:, 1 : 1 + len(query)] = query
        return texts.encode(rows, ids.argmax(dim=-1), list(learnt.compound_prompts_text))

    @torch.inference_mode()
    def score(images: Tensor) -> tuple[Tensor, Tensor]:
        original, values = encoder.two_streams(images, method.value_value_from)
        vision, query = [], []
        for layer in method.layers:
            patches = encoder.joint(values[layer][:, 1:])
            shifts = learnt.projection[str(layer)](original[layer].float().mean(dim=1))
            text = torch.stack([encoded(learnt.query + shift) for shift in shifts])
            for kept, prompts in ((vision, text), (query, query_text)):
                probabilities = (cosines(patches, prompts) / settings.temperature).softmax(dim=-1)
                kept.append(enlarged(probabilities, images.shape[-1])[:, 1])
        maps = (torch.stack(vision).mean(dim=0) + torch.stack(query).mean(dim=0)) / 2
        values = maps.flatten(1).sort(dim=1, descending=True).values
        scores = values[:, : max(1, round(settings.top_ratio * values.shape[1]))].mean(dim=1)
        return scores, smoothed(maps, settings.sigma)

    return score
