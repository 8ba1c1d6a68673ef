"""Models of timm inside of transformers (TimmWrapper): called as transformers does, with the head that timm knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from gossamer.anatomy import Anatomy
from gossamer.hosts.base import ReadOut
from gossamer.hosts.hugging_face import HuggingFace
from gossamer.hosts.timm import Timm

INSIDE = "timm_model"  # where the wrapper has it


class TimmWrapper(HuggingFace):
    """A model of transformers that holds one of timm."""

    kind = "timm in transformers"

    def knows(self, model: nn.Module) -> bool:
        """Whether it is one of transformers' and has a model of timm's."""
        return super().knows(model) and INSIDE in model._modules

    def inner(self, model: Any) -> nn.Module:
        """The model of timm."""
        return model.timm_model

    def heads(self, model: Any, anatomy: Anatomy) -> dict[str, nn.Module]:
        """As timm knows them."""
        return {f"{INSIDE}.{name}": head for name, head in Timm().heads(model.timm_model, anatomy).items()}

    def features(self, model: Any, readout: ReadOut, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> Tensor:
        """What timm's own classifier reads, which the wrapper gives as its pooled output."""
        return model(*args, **inputs, **self._named(model)).pooler_output

    def check_readable(self, model: Any, readout: ReadOut) -> None:
        """As timm says."""
        Timm().check_readable(model.timm_model, readout)

    def width(self, anatomy: Anatomy) -> int:
        """That of what timm's classifier reads."""
        inside: Any = anatomy.model.timm_model
        return getattr(inside, "head_hidden_size", inside.num_features)

    def labels(self, model: Any) -> dict[str, Any]:
        """What both say."""
        return {**super().labels(model), **Timm().labels(model.timm_model)}

    def tell_labels(self, model: Any, said: Mapping[str, Any]) -> None:
        """Both."""
        super().tell_labels(model, said)
        Timm().tell_labels(model.timm_model, said)

    def tell_outputs(self, model: Any, num_labels: int) -> None:
        """Both."""
        super().tell_outputs(model, num_labels)
        Timm().tell_outputs(model.timm_model, num_labels)
