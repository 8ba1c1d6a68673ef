"""A pair of towers whose texts are read as the mean of their tokens, as sentence encoders (MiniLM) are made for."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import VisionTextDualEncoderModel


class MeanTextDualEncoder(VisionTextDualEncoderModel):
    """transformers' pair, but a text vector is the projected mean over its real tokens, not what the pooler makes of the first."""

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Tensor:  # type: ignore[override]
        """Texts [B, n], and which tokens are real (None: all) -> [B, e]."""
        states = self.text_model(input_ids=input_ids, attention_mask=attention_mask, **options).last_hidden_state  # type: ignore[misc]
        real = states.new_ones(states.shape[:2]) if attention_mask is None else attention_mask.to(states.dtype)
        mean = (states * real[:, :, None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1)
        return self.text_projection(mean)

    def forward(self, *args: Any, **options: Any) -> Any:
        """Not for use: images and texts are compared by `gossamer.ZeroShot`."""
        raise NotImplementedError("compare images with classes in words: gossamer.ZeroShot.of(pair, names, tokenizer)")
