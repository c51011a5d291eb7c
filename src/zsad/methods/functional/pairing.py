"""Images as companions of each other: which are compared, and how well their patches match.

Shapes: B images, T layers, N = G*G patches in row-major order, D and E feature widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.methods.functional.maps import to_grid
from zsad.methods.functional.matching import nearest_distance

Pairing = Literal["nearest", "sequential", "random"]
Partners = list[Tensor]
"""For each image the numbers of its companions, (k,) int64. They stay tensors, because a GPU would have to
wait for numbers that Python reads."""


def choose_partners(
    class_names: Sequence[str],
    image_features: Tensor,
    pairing: Pairing,
    *,
    count: int | None = 1,
    draws: int = 1,
    seed: int = 0,
) -> list[Partners]:
    """The companions of each image.

    Args:
        class_names: B names; companions have the same.
        image_features: (B, E) unit vectors.
        pairing: "nearest" (most alike), "sequential" (shuffled, then cut into groups) or "random".
        count: number of companions of each image, or fewer if its class name has fewer images; None for all
            others of its class name.
        draws: number of times that companions are chosen with "random".
        seed: seed of "sequential" and "random".

    Returns:
        For each draw (one unless pairing is "random") the numbers of the companions of B images, the most
        alike or first drawn companion first; empty if no other image has the class name.

    Example:
        >>> [partners] = choose_partners(["nut", "nut", "tile"], torch.eye(3), "nearest")
        >>> [numbers.tolist() for numbers in partners]
        [[1], [0], []]
    """
    device = image_features.device
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(class_names):
        groups.setdefault(name, []).append(index)
    generator = torch.Generator().manual_seed(seed)
    found: list[Partners] = []
    for _ in range(draws if pairing == "random" else 1):
        partners: Partners = [torch.empty(0, dtype=torch.long, device=device) for _ in class_names]
        for members in groups.values():
            wanted = len(members) - 1 if count is None else min(count, len(members) - 1)
            if wanted == 0:
                continue
            if pairing == "nearest":
                chosen = _nearest(members, image_features, wanted)
            elif pairing == "sequential":
                chosen = _sequential(members, wanted, generator)
            else:
                chosen = _random(members, wanted, generator)
            for index, others in zip(members, chosen, strict=True):
                partners[index] = others.to(device)
        found.append(partners)
    return found


def _nearest(members: Sequence[int], image_features: Tensor, count: int) -> list[Tensor]:
    """The images that are most alike to each image."""
    numbers = torch.tensor(list(members), device=image_features.device)
    rows = image_features[numbers]
    similarity = (rows @ rows.T).fill_diagonal_(-torch.inf)
    return list(numbers[similarity.topk(count, dim=1).indices])


def _sequential(members: Sequence[int], count: int, generator: torch.Generator) -> list[Tensor]:
    """The images shuffled and cut into groups of count + 1; the last is filled up with the first ones."""
    places = torch.randperm(len(members), generator=generator)
    order = torch.tensor(list(members))[places]
    chosen = []
    for start in range(0, len(order), count + 1):
        group = order[start : start + count + 1]
        filled = torch.cat([group, order[: count + 1 - len(group)]])
        chosen += [torch.cat([filled[:place], filled[place + 1 :]]) for place in range(len(group))]
    return list(torch.stack(chosen)[places.argsort()])


def _random(members: Sequence[int], count: int, generator: torch.Generator) -> list[Tensor]:
    """Other images, drawn for each image by itself."""
    chosen = []
    for index in members:
        others = torch.tensor([other for other in members if other != index])
        chosen.append(others[torch.randperm(len(others), generator=generator)[:count]])
    return chosen


def visual_scores(visual_tokens: Tensor, partners: Partners, best_share: float) -> Tensor:
    """How badly each patch matches the companions of its image.

    M_V(i, p) = mean over layers l, and over the best-matching share of the companions r, of
                min_q (1 - cos(u_i,l(p), u_r,l(q))) / 2

    Args:
        visual_tokens: (B, T, N, D) unit vectors of T layers.
        partners: numbers of the companions of each image, as `choose_partners` gives them.
        best_share: share of the companions that counts, rounded down, at least one.

    Returns:
        (B, N) in [0, 1]; 0 for an image without companions.

    Example:
        >>> here, there = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> partners = [torch.tensor([1]), torch.tensor([], dtype=torch.long)]
        >>> visual_scores(torch.stack([here, there])[:, None, None], partners, best_share=0.3)
        tensor([[0.5000],
                [0.0000]])
    """
    count, layers, patches, _ = visual_tokens.shape
    scores = visual_tokens.new_zeros(count, patches)
    for index, others in enumerate(partners):
        if not len(others):
            continue
        counted = max(1, int(best_share * len(others)))
        for layer in range(layers):
            found, compared = visual_tokens[index, layer][None], visual_tokens[:, layer]
            apart = [compared.index_select(0, other)[0] for other in torch.split(others, 1)]
            distances = torch.cat([nearest_distance(found, other) for other in apart])
            scores[index] += distances.topk(counted, dim=0, largest=False).values.mean(dim=0) / layers
    return scores


def neighbourhood_means(tokens: Tensor, side: int) -> Tensor:
    """Mean over the patches around each patch; patches beyond the border do not count.

    Args:
        tokens: (B, T, N, D).
        side: side of the neighbourhood in patches, odd.

    Returns:
        (B, T, N, D).
    """
    grids = to_grid(tokens).flatten(0, 1)
    means = F.avg_pool2d(grids, side, stride=1, padding=side // 2, count_include_pad=False)
    return means.flatten(2).transpose(1, 2).reshape(tokens.shape)
