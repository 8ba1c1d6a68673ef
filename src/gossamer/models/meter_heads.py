"""METER's task heads: question answering, reasoning over two images, entailment, and retrieval."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import ModelOutput

from gossamer.errors import UserError
from gossamer.models.meter import MeterConfig, MeterModel, MeterPreTrainedModel
from gossamer.models.ranking import MatchingHead, RankingModel, RankingOutput


def classifier(width: int, inner: int, outputs: int | None) -> nn.Sequential:
    """Linear -> LayerNorm -> GELU -> Linear, [B, width] -> [B, outputs]."""
    assert outputs is not None, "a configuration always has num_labels"
    return nn.Sequential(nn.Linear(width, inner), nn.LayerNorm(inner), nn.GELU(), nn.Linear(inner, outputs))


class MeterClassifier(MeterPreTrainedModel):
    """Classes of a text about an image, from both poolers; a task says what its loss is."""

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
        """Texts and images -> logits [B, classes], and the loss where labels are given. The rest as in MeterModel."""
        pooled = _pooled(self.meter(input_ids, pixel_values, attention_mask, 1, interpolate_pos_encoding))
        logits = self.classifier(pooled)
        loss = None if labels is None else self.loss(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)  # type: ignore[arg-type]

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of classes [B]."""
        return F.cross_entropy(logits, labels)


class MeterForQuestionAnswering(MeterClassifier):
    """VQA: scores over the answers; labels are scores [B, answers] from 0 to 1."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy of soft scores, summed over answers, averaged over samples."""
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype)) * logits.shape[1]


class MeterForVisualEntailment(MeterClassifier):
    """SNLI-VE: does the image entail the text. `config.num_labels` classes, 3 in the data set."""


class MeterForImagesAndTextClassification(MeterPreTrainedModel):
    """NLVR2: is a sentence true of two images. Two full passes, image types 1 and 2; both poolers of both are classified."""

    def __init__(self, config: MeterConfig):
        super().__init__(config)
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
            raise UserError(f"pixel_values must be [B, 2, 3, S, S], two images a sentence, got {pixel_values.shape}")
        passes = [
            _pooled(self.meter(input_ids, image, attention_mask, 1 + i, interpolate_pos_encoding))
            for i, image in enumerate(pixel_values.unbind(1))
        ]
        logits = self.classifier(torch.cat(passes, dim=-1))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)  # type: ignore[arg-type]


class MeterForRetrieval(RankingModel, MeterPreTrainedModel):
    """Ranks k texts for each image; both encoders can be run once for all pairs."""

    def __init__(self, config: MeterConfig):
        super().__init__(config)
        self.meter = MeterModel(config)
        self.rank_output = nn.Linear(2 * config.hidden_size, 1)
        self.itm_score = MatchingHead(2 * config.hidden_size)
        self.post_init()

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """RoBERTa's last layer."""
        return self.meter.encode_text(input_ids, attention_mask)

    def encode_image(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        """All tokens of the CLIP tower."""
        return self.meter.encode_image(pixel_values, interpolate_pos_encoding)

    def pool(self, text: Tensor, image: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Both poolers behind the fusion, [B, 2d]."""
        return _pooled(self.meter.fuse(text, image, attention_mask))

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> RankingOutput:
        """Images [B, 3, S, S], each with k texts [B, k, n_t] (or one, [B, n_t]) -> a score for every pair; see `compare`."""
        image = self.encode_image(pixel_values, interpolate_pos_encoding)
        return self.compare(input_ids, image, attention_mask, labels)


def _pooled(output: ModelOutput) -> Tensor:
    pooled = output["pooler_output"]
    assert isinstance(pooled, Tensor)
    return pooled
