"""Distils the sentence teacher into the text encoder of `tiny` (CLIP's tokenizer, causal, end-of-text pooling).

    python tools/tiny/train_text.py --teacher text.npz --out text_tower.safetensors

The loss is 1 - cosine to the teacher's embedding plus the squared difference of the batch's similarity matrices,
so that the joint space of `tiny` starts as the teacher's own 384-dimensional sentence space.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from recipe import TINY_CONFIG
from safetensors.torch import save_file
from torch.nn import functional as F

from zsad.backbones.clip import CLIP
from zsad.backbones.tokenizer import tokenize


def text_state(clip: CLIP) -> dict[str, torch.Tensor]:
    """The parameters of the text encoder alone."""
    return {
        name: tensor.detach().clone().contiguous()
        for name, tensor in clip.state_dict().items()
        if not name.startswith("visual.") and name != "logit_scale"
    }


def main() -> None:
    """Trains, prints the held-out cosine after every epoch, writes the tower after every epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    torch.manual_seed(0)

    stored = np.load(args.teacher)
    tokens = tokenize([str(text) for text in stored["texts"]])
    targets = torch.from_numpy(stored["embeddings"]).float()
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))
    held_out, training = order[:2000], order[2000:]

    clip = CLIP(TINY_CONFIG).requires_grad_(False)
    parameters = [
        p for name, p in clip.named_parameters() if not name.startswith("visual") and name != "logit_scale"
    ]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=0.01, betas=(0.9, 0.98))
    steps = args.epochs * (len(training) // args.batch_size)
    warm_up = 200
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda s: min(1, s / warm_up) * 0.5 * (1 + math.cos(math.pi * min(1, s / steps)))
    )
    start, step = time.time(), 0
    for epoch in range(args.epochs):
        for rows in training[torch.randperm(len(training))].split(args.batch_size):
            if len(rows) < args.batch_size:
                continue
            with torch.autocast("cpu", torch.bfloat16):
                student = clip.encode_text(tokens[rows]).float()
            student, teacher = F.normalize(student, dim=-1), F.normalize(targets[rows], dim=-1)
            cosine = 1 - (student * teacher).sum(-1).mean()
            relation = (student @ student.T - teacher @ teacher.T).square().mean()
            optimiser.zero_grad()
            (cosine + 5 * relation).backward()
            optimiser.step()
            schedule.step()
            step += 1
            if step % 50 == 0:
                print(
                    f"step {step}/{steps} cosine {1 - cosine.item():.4f} {time.time() - start:.0f} s",
                    flush=True,
                )
        with torch.inference_mode():
            student = torch.cat([clip.encode_text(tokens[rows]) for rows in held_out.split(500)])
            print(
                f"epoch {epoch + 1} held-out cosine {F.cosine_similarity(student, targets[held_out]).mean():.4f}"
            )
        save_file(text_state(clip), args.out)


if __name__ == "__main__":
    main()
