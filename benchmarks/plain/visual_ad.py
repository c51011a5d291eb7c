"""VisualAD: 2603.07952, section 3, and the authors' test script."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plain.encoders import image_encoder
from plain.maps import cosines, enlarged, smoothed

if TYPE_CHECKING:
    from plain import Scorer
    from zsad.methods.base import Method

TOP_SHARE = 0.01


def plain(method: Method) -> Scorer:
    """Makes the plain implementation with the weights of the method."""
    encoder, settings = image_encoder(method.backbone), method.config

    def informed(token: Tensor, patches: Tensor, module: nn.Module) -> Tensor:
        """Returns one token (B, D) with what the anchors find among the patches (B, N, D)."""
        query = module.q_norm(module.q_proj(module.anchor_queries)).expand(len(patches), -1, -1)
        key = module.k_norm(module.k_proj(patches + module.pos_encoding[:, : patches.shape[1]]))
        weights = (query @ key.transpose(1, 2) * query.shape[-1] ** -0.5).softmax(dim=-1)
        found = weights @ module.v_proj(patches)
        gathered = (module.gate(token)[..., None] * found).sum(dim=1)
        return token + module.res_scale * module.out_proj(gathered)

    @torch.inference_mode()
    def score(images: Tensor) -> tuple[Tensor, Tensor]:
        visual = method.backbone.visual
        learnt = torch.stack([method.anomaly_token, method.normal_token])
        learnt = learnt + visual.positional_embedding[0].float()
        pre = visual.ln_pre
        learnt = F.layer_norm(learnt, learnt.shape[-1:], pre.weight.float(), pre.bias.float())
        x = encoder.embed(images)
        x = torch.cat([learnt.to(x.dtype).expand(len(x), -1, -1), x], dim=1)
        kept = {}
        for number in range(1, encoder.layers + 1):
            x = encoder.block(x, number)
            kept[number] = method.ln_post(x[:, 3:].float())
        anomaly, normal = method.ln_post(x[:, :2].float()).unbind(dim=1)
        maps = torch.zeros(())
        for layer in method.layers:
            module, patches = method.cross_attn[f"layer_{layer}"], kept[layer]
            tokens = torch.stack([informed(each, patches, module) for each in (anomaly, normal)], dim=1)
            found = cosines(method.layer_transforms[f"layer_{layer}"].mlp(patches), tokens)
            maps = maps + enlarged(found[..., :1] - found[..., 1:], images.shape[-1])[:, 0]
        maps = smoothed(maps, settings.sigma)
        values = maps.flatten(1).sort(dim=1, descending=True).values
        return torch.sigmoid(values[:, : max(1, int(TOP_SHARE * values.shape[1]))].mean(dim=1)), maps

    return score
