"""Which tokens become one: pairs of alike ones (ToMe), or those that the class token attends to least (EViT)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gossamer.anatomy.seams import Part
from gossamer.anatomy.shortened import Merge, Seen


def pairs(metric: Tensor, count: int, protected: int) -> tuple[Tensor, Tensor]:
    """Bipartite soft matching (arXiv 2210.09461): of rows 0, 2, 4, ... the `count` that are most like one of rows 1, 3, 5, ...

    Args:
        metric: [B, N, d]; alike is the largest cosine.
        count: r; at most half of the rows that are not protected.
        protected: rows in front that take no part.

    Returns:
        gone [B, r], even rows, and into which odd rows [B, r] they go. Of equal ones those in front.
    """
    metric = metric / metric.norm(dim=-1, keepdim=True)
    scores = metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)
    from_row, to_row = torch.arange(0, metric.shape[1], 2), torch.arange(1, metric.shape[1], 2)
    hidden = (from_row[:, None] < protected) | (to_row[None] < protected)
    scores = scores.masked_fill(hidden.to(scores.device), -math.inf)
    best, target = scores.max(dim=-1)
    gone = falling(best)[:, :count]
    return 2 * gone, 2 * target.gather(1, gone) + 1


def falling(scores: Tensor) -> Tensor:
    """Places of scores [B, n] from the largest to the smallest, equal ones in their order: a stable sort that ONNX knows."""
    places = torch.arange(scores.shape[1], device=scores.device)
    own, others = scores[:, :, None], scores[:, None]
    before = (others > own) | ((others == own) & (places[None] < places[:, None]))
    rank = before.long().sum(-1)
    return torch.zeros_like(rank).scatter(1, rank, places.expand_as(rank))


def holders(gone: Tensor, into: Tensor, rows: int) -> Tensor:
    """For each of the rows [B, rows] the one that holds it once the rows `gone` [B, r] are in the rows `into`; order is kept."""
    leaves = torch.zeros(gone.shape[0], rows, dtype=torch.long, device=gone.device).scatter(1, gone, 1)
    place = (1 - leaves).cumsum(1) - 1
    return place.scatter(1, gone, place.gather(1, into))


def attentiveness(queries: Tensor, keys: Tensor, remembered: Tensor | None, scaling: float) -> Tensor:
    """Mean over heads of softmax(q_cls k_j) [B, N], of queries and keys [B, N, heads, d_h]; remembered keys take their share."""
    first = queries[:, 0]
    logits = torch.einsum("bhd,bnhd->bhn", first, keys) * scaling
    if remembered is not None:
        others = (
            torch.einsum("bhd,bnhd->bhn", first, remembered.expand(first.shape[0], -1, -1, -1).to(first.dtype))
            * scaling
        )
        logits = torch.cat([others, logits], dim=-1)
    precise = torch.promote_types(logits.dtype, torch.float32)
    return logits.softmax(dim=-1, dtype=precise)[..., -keys.shape[1] :].mean(1)


def merged(rows: int, protected: int, count: int) -> int:
    """r, or fewer where less than 2 r rows are not protected."""
    return max(0, min(count, (rows - protected) // 2))


def kept(rows: int, protected: int, share: float) -> int:
    """ceil(share x rows that are not protected)."""
    free = max(0, rows - protected)
    return min(free, math.ceil(share * free - 1e-9))


class Pairs(Part):
    """r pairs of alike tokens become one each, their mean weighted by how many they stand for."""

    asks = False

    def __init__(self, count: int, proportional: bool):
        super().__init__()
        self.count, self.proportional = count, proportional

    def forward(self, seen: Seen) -> Merge | None:
        """Which tokens become one."""
        rows = seen.keys.shape[1]
        count = merged(rows, seen.protected, self.count)
        if count == 0:
            return None
        gone, into = pairs(seen.keys.mean(2), count, seen.protected)
        return Merge(holders(gone, into, rows), seen.sizes, rows - count)


class Attended(Part):
    """The tokens that the class token attends to least become one, their sum weighted by its attention."""

    asks, proportional = True, False

    def __init__(self, share: float):
        super().__init__()
        self.share = share

    def forward(self, seen: Seen) -> Merge | None:
        """Which tokens become one."""
        assert seen.queries is not None, "it asked for them"
        rows, protected = seen.keys.shape[1], seen.protected
        stay = kept(rows, protected, self.share)
        if stay == rows - protected:
            return None
        weights = attentiveness(seen.queries, seen.keys, seen.remembered, seen.scaling)
        order = falling(weights[:, protected:]) + protected
        fused = torch.zeros_like(weights, dtype=torch.long).scatter(1, order[:, stay:], 1)
        place = ((1 - fused).cumsum(1) - 1).masked_fill(fused.bool(), protected + stay)
        return Merge(place, torch.where(fused.bool(), weights, 1.0), protected + stay + 1, mean=False)
