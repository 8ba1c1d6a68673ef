"""What retrieval models share: a head that ranks texts for an image beside the frozen matching head of pre-training; ViLT's.

W. Kim, B. Son, I. Kim: ViLT, arXiv 2102.03334, whose way of fine-tuning for retrieval METER (Z.-Y. Dou et al., arXiv 2111.02387)
has taken.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, ViltForImageAndTextRetrieval
from transformers.utils.generic import ModelOutput


def matching_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of "does this text fit" over pairs of which half fit: the true text of an image, and the mean of its others.

    Args:
        logits: [B, k, 2], of no match and match.
        labels: [B], which of the k texts is the true one.
    """
    no_match, match = (-logits.float().log_softmax(-1)).unbind(-1)
    true = F.one_hot(labels, logits.shape[1]).bool()
    others = no_match.masked_fill(true, 0).sum(1) / max(1, logits.shape[1] - 1)
    return (match[true] + others).mean() / 2


@dataclass
class RankingOutput(ModelOutput):
    """Scores of image-text pairs: `logits` [B, k] of the rank head; with labels the `loss`, and of the frozen matching head
    `matching_logits` [B, k, 2] (1 = match).
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    matching_logits: Tensor | None = None


class MatchingHead(nn.Module):
    """The pre-trained image-text matching head, frozen: [..., d] -> [..., 2]. Buffers, so nothing can train it.

    Zeros where a checkpoint has none: it is then not `known`, and no loss is taken of it.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("weight", torch.zeros(2, width))
        self.register_buffer("bias", torch.zeros(2))

    @property
    def known(self) -> bool:
        """Whether it was pre-trained."""
        return bool(self.weight.any())

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled vectors -> logits of no match and match."""
        return F.linear(pooled, self.weight, self.bias)


class RankingModel(PreTrainedModel):
    """Ranks k texts for each image. The rank head is meant to start as row 1 of the matching head, which stays frozen."""

    rank_output: nn.Linear
    itm_score: MatchingHead

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, MatchingHead):
            module.weight.zero_()
            module.bias.zero_()
        else:
            super()._init_weights(module)

    @torch.no_grad()
    def start_rank_head(self) -> None:
        """The rank head becomes row 1 of the matching head; where that is not known, it stays as it is."""
        if self.itm_score.known:
            self.rank_output.weight.copy_(self.itm_score.weight[1:])
            self.rank_output.bias.copy_(self.itm_score.bias[1:])

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """What can be computed of texts [B, n] alone, once for all images; the ids themselves where that is nothing."""
        return input_ids

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """What can be computed of images [B, 3, S, S] alone, once for all texts; the pixels themselves where that is nothing."""
        return pixel_values

    @abstractmethod
    def pool(self, text: Tensor, image: Tensor, attention_mask: Tensor | None) -> Tensor:
        """What both heads read of pairs, [B, d], from what `encode_text` and `encode_image` gave."""

    def rank(self, text: Tensor, image: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The scores of pairs, [B], from what `encode_text` and `encode_image` gave of B texts, with their mask, and B images."""
        return self.rank_output(self.pool(text, image, attention_mask)).squeeze(-1)

    def compare(
        self, input_ids: Tensor, image: Tensor, attention_mask: Tensor | None, labels: Tensor | None
    ) -> RankingOutput:
        """Encoded images [B, ...], each with k texts [B, k, n] (or one, [B, n]) -> a score for every pair.

        Args:
            input_ids: the texts.
            image: from `encode_image`. An image is encoded once, whatever k.
            attention_mask: of the same shape as input_ids.
            labels: [B], which text is the true one (the authors' batches: 0, of 1 + 15). The loss is cross-entropy over the k
                scores, plus `matching_loss` where the matching head is known.
        """
        ids = input_ids if input_ids.dim() == 3 else input_ids[:, None]
        batch, k, length = ids.shape
        mask = None if attention_mask is None else attention_mask.reshape(-1, length)
        text = self.encode_text(ids.flatten(0, 1), mask)
        pooled = self.pool(text, image.repeat_interleave(k, dim=0), mask).view(batch, k, -1)
        logits = self.rank_output(pooled).squeeze(-1)
        if labels is None:
            return RankingOutput(logits=logits)
        loss = F.cross_entropy(logits.float(), labels)
        if not self.itm_score.known:
            return RankingOutput(loss, logits)
        matching = self.itm_score(pooled)
        return RankingOutput(loss + matching_loss(matching, labels), logits, matching)


class ViltForRetrieval(RankingModel, ViltForImageAndTextRetrieval):
    """transformers' ViltForImageAndTextRetrieval with several texts for an image, a loss, and the matching head.

    Text and image meet in its first block, so nothing of either can be computed beforehand.
    """

    def __init__(self, config):
        super().__init__(config)
        self.itm_score = MatchingHead(config.hidden_size)

    def pool(self, text: Tensor, image: Tensor, attention_mask: Tensor | None) -> Tensor:
        """The pooled class token of the text's ids [B, n] and the image's pixels, [B, d]."""
        return self.vilt(input_ids=text, pixel_values=image, attention_mask=attention_mask).pooler_output

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> RankingOutput:
        """Images [B, 3, S, S], each with k texts [B, k, n] (or one, [B, n]) -> a score for every pair; see `compare`."""
        return self.compare(input_ids, self.encode_image(pixel_values), attention_mask, labels)
