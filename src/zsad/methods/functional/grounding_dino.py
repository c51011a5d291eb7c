"""Grounding DINO, an open-vocabulary detector, through the package `transformers`.

Liu et al., ECCV 2024, https://arxiv.org/abs/2303.05499. It finds a product in an image by its name.

Nothing is downloaded here: a detector that came and went with the network would give other scores from one
day to the next.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.errors import MissingExtraError, WeightsError, one_line

Detector = Callable[[Tensor, Sequence[str]], Tensor]
"""Images (B, 3, S, S) in [0, 1] and B class names to boxes (B, 4) in pixels; NaN for the whole image."""

SHORTEST_EDGE = 800
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALLEST = 0.05
FULL_STOP = "."


@dataclass(frozen=True)
class GroundingDino:
    """The best box for the name of each image's product.

    Attributes:
        model: a `GroundingDinoForObjectDetection`.
        tokenizer: its tokenizer.
        box_threshold: probability that the best word of a box has to exceed.
        text_threshold: probability that one word of the class name has to exceed, so that a box does not
            count if only the marks around the name speak for it.
        side: pixels of one side of the images that the model sees.
    """

    model: Any
    tokenizer: Any
    box_threshold: float
    text_threshold: float
    side: int = SHORTEST_EDGE

    @torch.no_grad()
    def __call__(self, images: Tensor, names: Sequence[str]) -> Tensor:
        """Boxes (B, 4) float32 in pixels of images (B, 3, S, S) in [0, 1].

        A row is NaN if no box is good enough or the best one covers less than 5 % of the image.
        """
        model = self.model.to(images.device)
        size = images.shape[-1]
        mean, std = (torch.tensor(each, device=images.device)[:, None, None] for each in (MEAN, STD))
        shown = F.interpolate(images.float(), (self.side, self.side), mode="bilinear", antialias=True)
        pixels = ((shown - mean) / std).to(model.dtype)
        boxes = torch.full((len(images), 4), torch.nan, device=images.device)
        for name in dict.fromkeys(names):
            rows = [row for row, each in enumerate(names) if each == name]
            asked = f"{name.replace('_', ' ').strip().lower()}{FULL_STOP}"
            words = self.tokenizer([asked], return_tensors="pt")
            words = {key: value.expand(len(rows), -1).to(images.device) for key, value in words.items()}
            found = model(pixel_values=pixels[rows], **words)
            boxes[rows] = (
                self._best(found.logits.float(), found.pred_boxes.float(), words["input_ids"]) * size
            )
        return boxes

    def _best(self, logits: Tensor, boxes: Tensor, token_ids: Tensor) -> Tensor:
        """(B, 4) left, top, right, bottom in [0, 1] from (B, Q, 4) centres, widths and heights."""
        marks = [*self.tokenizer.all_special_ids, self.tokenizer.convert_tokens_to_ids(FULL_STOP)]
        is_word = ~torch.isin(token_ids, torch.tensor(marks, device=token_ids.device))
        probabilities = logits.sigmoid()[..., : token_ids.shape[1]]
        has_word = ((probabilities > self.text_threshold) & is_word[:, None]).any(dim=-1)
        scores = probabilities.amax(dim=-1)
        is_good = has_word & (scores > self.box_threshold)
        best = torch.where(is_good, scores, -1.0).argmax(dim=1, keepdim=True)
        box = boxes.gather(1, best[..., None].expand(-1, -1, 4))[:, 0]
        centre, half = box[:, :2], box[:, 2:] / 2
        corners = torch.cat([centre - half, centre + half], dim=1).clamp(0, 1)
        area = (corners[:, 2:] - corners[:, :2]).prod(dim=1, keepdim=True)
        return torch.where(is_good.gather(1, best) & (area >= SMALLEST), corners, torch.nan)


def load_grounding_dino(weights: str, box_threshold: float, text_threshold: float) -> GroundingDino:
    """Loads a Grounding DINO that is on this machine.

    Args:
        weights: folder with `config.json`, `model.safetensors` and the files of the tokenizer, or one of
            these files; or the name of a repository of the Hugging Face hub that has been fetched.
        box_threshold: see `GroundingDino`.
        text_threshold: see `GroundingDino`.

    Raises:
        WeightsError: the weights are not there, or are no Grounding DINO; the message says how to get them.
        MissingExtraError: the package `transformers` is not installed.
    """
    folder = _folder_of(weights)
    try:
        from transformers import AutoTokenizer, GroundingDinoForObjectDetection
    except ImportError as error:
        raise MissingExtraError("transformers", "grounding", "the detector Grounding DINO") from error
    try:
        model: Any = GroundingDinoForObjectDetection.from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        side = _shortest_edge(folder)
    except Exception as error:  # the library raises many kinds for files that do not fit
        raise WeightsError(
            f"{weights} holds no Grounding DINO that can be read: {one_line(error)[:200]}"
        ) from error
    return GroundingDino(model.eval().requires_grad_(False), tokenizer, box_threshold, text_threshold, side)


def _folder_of(weights: str) -> Path:
    """The folder of weights that are on this machine."""
    path = Path(weights).expanduser()
    if path.exists():
        return path if path.is_dir() else path.parent
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = [try_to_load_from_cache(weights, name) for name in ("config.json", "model.safetensors")]
    except HFValidationError:
        raise WeightsError(f"there is no file or folder {weights}") from None
    if not all(isinstance(each, str) for each in found):
        raise WeightsError(f"{weights} is not on this machine; `hf download {weights}` fetches it")
    return Path(str(found[0])).parent


def _shortest_edge(folder: Path) -> int:
    """The side of the images that the weights were made for, from the settings of their image processor."""
    file = folder / "preprocessor_config.json"
    size = json.loads(file.read_text(encoding="utf-8")).get("size") if file.is_file() else None
    found = size.get("shortest_edge") or size.get("height") if isinstance(size, dict) else size
    return int(found or SHORTEST_EDGE)
