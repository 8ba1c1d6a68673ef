"""METER's task heads: question answering, reasoning over two images, entailment, and retrieval."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import ModelOutput

from gossamer.models.meter import MeterConfig, MeterModel, MeterPreTrainedModel


def classifier(width: int, inner: int, outputs: int | None) -> nn.Sequential:
    """Linear -> LayerNorm -> GELU -> Linear, [B, width] -> [B, outputs]."""
    assert outputs is not None, "a configuration always has num_labels"
    return nn.Sequential(nn.Linear(width, inner), nn.LayerNorm(inner), nn.GELU(), nn.Linear(inner, outputs))


class MeterForQuestionAnswering(MeterPreTrainedModel):
    """VQA: scores over the answers. The loss is binary cross-entropy of soft scores, summed over answers, averaged over samples."""

    def __init__(self, config: MeterConfig):
        super().__init__(config)
        self.num_labels, d = config.num_labels, config.hidden_size
        self.meter = MeterModel(config)
        self.classifier = classifier(2 * d, 2 * d, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> SequenceClassifierOutput:
        """Questions and images -> logits [B, answers]; labels are scores [B, answers] from 0 to 1. The rest as in MeterModel."""
        pooled = _pooled(self.meter(input_ids, pixel_values, attention_mask, 1, interpolate_pos_encoding))
        logits = self.classifier(pooled)
        loss = None
        if labels is not None:
            loss = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype)) * logits.shape[1]
        return SequenceClassifierOutput(loss=loss, logits=logits)  # type: ignore[arg-type]


class MeterForVisualEntailment(MeterPreTrainedModel):
    """SNLI-VE: does the image entail the text. Cross-entropy over `config.num_labels` classes, 3 in the data set."""

    def __init__(self, config: MeterConfig):
        super().__init__(config)
        self.num_labels, d = config.num_labels, config.hidden_size
        self.meter = MeterModel(config)
        self.classifier = classifier(2 * d, 2 * d, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> SequenceClassifierOutput:
        """Hypotheses and images -> logits [B, classes]; labels are classes [B]. The rest as in MeterModel."""
        logits = self.classifier(
            _pooled(self.meter(input_ids, pixel_values, attention_mask, 1, interpolate_pos_encoding))
        )
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)  # type: ignore[arg-type]


class MeterForImagesAndTextClassification(MeterPreTrainedModel):
    """NLVR2: is a sentence true of two images. Two full passes, image types 1 and 2; both poolers of both are classified."""

    def __init__(self, config: MeterConfig):
        super().__init__(config)
        if config.image_types < 2:
            raise ValueError(f"two images need MeterConfig(image_types=2), found image_types={config.image_types}")
        self.num_labels, d = config.num_labels, config.hidden_size
        self.meter = MeterModel(config)
        self.classifier = classifier(4 * d, 2 * d, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> SequenceClassifierOutput:
        """Sentences [B, n_t] and image pairs [B, 2, 3, S, S] -> logits [B, classes]; labels are classes [B]."""
        if pixel_values.dim() != 5 or pixel_values.shape[1] != 2:
            raise ValueError(f"pixel_values must be [B, 2, 3, S, S], two images a sentence, got {pixel_values.shape}")
        passes = [
            _pooled(self.meter(input_ids, image, attention_mask, 1 + i, interpolate_pos_encoding))
            for i, image in enumerate(pixel_values.unbind(1))
        ]
        logits = self.classifier(torch.cat(passes, dim=-1))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)  # type: ignore[arg-type]


@dataclass
class MeterRetrievalOutput(ModelOutput):
    """Scores of image-text pairs: `logits` [B, k] of the rank head, `matching_logits` [B, k, 2] of the frozen one (1 = match)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    matching_logits: Tensor | None = None


class MatchingHead(nn.Module):
    """The pre-trained image-text matching head, frozen: [..., 2d] -> [..., 2]. Buffers, so nothing can train it."""

    weight: Tensor
    bias: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("weight", 0.02 * torch.randn(2, width))
        self.register_buffer("bias", torch.zeros(2))

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled vectors -> logits of no match and match."""
        return F.linear(pooled, self.weight, self.bias)


class MeterForRetrieval(MeterPreTrainedModel):
    """Ranks k texts for each image. The rank head is meant to start as row 1 of the matching head, which stays frozen."""

    def __init__(self, config: MeterConfig):
        super().__init__(config)
        self.meter = MeterModel(config)
        self.rank_output = nn.Linear(2 * config.hidden_size, 1)
        self.itm_score = MatchingHead(2 * config.hidden_size)
        self.post_init()

    @torch.no_grad()
    def start_rank_head(self) -> None:
        """The rank head becomes row 1 of the matching head."""
        self.rank_output.weight.copy_(self.itm_score.weight[1:])
        self.rank_output.bias.copy_(self.itm_score.bias[1:])

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        matching_labels: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> MeterRetrievalOutput:
        """Images [B, 3, S, S], each with k texts [B, k, n_t] (or one, [B, n_t]) -> a score for every pair.

        Args:
            input_ids: as in MeterModel.
            pixel_values: as in MeterModel. An image is encoded once, whatever k.
            attention_mask: of the same shape as input_ids.
            labels: [B], which text is the true one (the authors' batches: 0, of 1 + 15): cross-entropy over the k scores.
            matching_labels: [B, k], whether a text fits: adds the cross-entropy of the matching head.
            interpolate_pos_encoding: as in MeterModel.
        """
        ids = input_ids if input_ids.dim() == 3 else input_ids[:, None]
        k = ids.shape[1]
        mask = None if attention_mask is None else attention_mask.reshape(-1, ids.shape[-1])
        text = self.meter.encode_text(ids.flatten(0, 1), mask)
        image = self.meter.encode_image(pixel_values, interpolate_pos_encoding).repeat_interleave(k, dim=0)
        pooled = _pooled(self.meter.fuse(text, image, mask)).view(len(ids), k, -1)
        logits, matching = self.rank_output(pooled).squeeze(-1), self.itm_score(pooled)
        losses = [] if labels is None else [F.cross_entropy(logits, labels)]
        if matching_labels is not None:
            losses.append(F.cross_entropy(matching.flatten(0, 1), matching_labels.reshape(-1)))
        return MeterRetrievalOutput(torch.stack(losses).sum() if losses else None, logits, matching)


def _pooled(output: ModelOutput) -> Tensor:
    pooled = output["pooler_output"]
    assert isinstance(pooled, Tensor)
    return pooled
