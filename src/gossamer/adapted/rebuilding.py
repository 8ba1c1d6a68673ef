"""Finished models through transformers' own folders: `save_pretrained` of one, and `from_pretrained` of what it wrote.

`from_pretrained` makes the plain class from its configuration; what a method left in the model beside merged weights would be gone,
and a block that it took away would be random. transformers lets others change the modules of a model before its weights are read,
if the configuration asks for them by name: its seam for quantizers. So the configuration of a finished model names us and the
methods, and where gossamer has been imported they are placed and finished in the empty model, which then has every weight. What
cannot be made again in this way is refused when it is saved.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from gossamer import methods
from gossamer.adapted.finishing import settle
from gossamer.adapted.module import AdaptedModule
from gossamer.errors import UserError

NAME = "gossamer"


@register_quantization_config(NAME)
class Finishing(QuantizationConfigMixin):
    """What the configuration of a finished model says: the methods, as JSON."""

    def __init__(self, methods: Sequence[dict[str, Any]] = (), **others: Any):
        self.quant_method, self.methods = NAME, list(methods)  # type: ignore[assignment]


@register_quantizer(NAME)
class Rebuilding(HfQuantizer):
    """Places and finishes methods in a model that has no weights yet. Nothing is quantized."""

    requires_calibration = False

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **options: Any) -> PreTrainedModel:
        rebuild(model, self.quantization_config.methods)  # type: ignore[attr-defined]
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **options: Any) -> PreTrainedModel:
        self.remove_quantization_config(model)
        model.save_pretrained = Keeping(model, self.quantization_config.methods)  # type: ignore[attr-defined,method-assign]
        return model

    def is_serializable(self) -> bool:
        """Yes."""
        return True

    @property
    def is_trainable(self) -> bool:
        """As any model."""
        return True


def rebuild(model: PreTrainedModel, applied: Sequence[dict[str, Any]]) -> nn.Module:
    """Places and finishes methods, given as JSON, in a model on the meta device; itself.

    Raises:
        UserError: they do not fit, or are not plain settings.
    """
    for one in applied:
        if one.get("method") == "peft":
            methods.peft.settings.check_plain(one)
    with torch.device("meta"):
        return settle(AdaptedModule(model, [methods.from_dict(one) for one in applied]).eval())


class Keeping:
    """`save_pretrained` of a finished model of transformers.

    Args:
        model: that is finished.
        applied: the methods that it was adapted by, as JSON.
    """

    def __init__(self, model: PreTrainedModel, applied: Sequence[dict[str, Any]]):
        self.model, self.applied = model, list(applied)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Saves the model, so that `from_pretrained` gives it again.

        Raises:
            UserError: that would give another model; the message says which part of it.
        """
        model, kind = self.model, type(self.model)
        with torch.device("meta"):
            plain = kind(copy.deepcopy(model.config))
        if held(plain) == held(model):
            return kind.save_pretrained(model, *arguments, **options)
        lost = _lost(plain, model, self.applied)
        if lost:
            raise self._refusal(lost)
        model.config.quantization_config = Finishing(self.applied)  # type: ignore[arg-type]
        try:
            return kind.save_pretrained(model, *arguments, **options)
        except RuntimeError as error:  # of tensors that two modules share
            raise self._refusal(str(error)) from error
        finally:
            delattr(model.config, "quantization_config")

    def _refusal(self, why: str) -> UserError:
        return UserError(
            f"{type(self.model).__name__}.from_pretrained would not give this finished model again, for what its methods made "
            f"of it ({why:.200}). Keep the adapter (adapted.save_pretrained; then gm.load and finalize()), or export it"
        )


class KeepingPlain:
    """`save_pretrained` of a finished model of diffusers, whose folders hold the plain class alone."""

    def __init__(self, model: Any):
        self.model = model

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Saves the model, so that `from_pretrained` gives it again.

        Raises:
            UserError: that would give another model, because something of a method runs beside its weights.
        """
        kind = type(self.model)
        with torch.device("meta"):
            plain = kind.from_config(self.model.config)
        if held(plain) != held(self.model):
            raise UserError(
                f"{kind.__name__}.from_pretrained would not give this finished model again: what its methods left in it is no part "
                "of that class. Keep the adapter (adapted.save_pretrained; then gm.load and finalize()); methods that are merged "
                "into weights (LoRA) can be saved so"
            )
        return kind.save_pretrained(self.model, *arguments, **options)


def _lost(plain: PreTrainedModel, model: PreTrainedModel, applied: Sequence[dict[str, Any]]) -> str | None:
    """What would not come again of a finished model, in an empty one of its class; None where all would."""
    try:
        again = rebuild(plain, applied)
        for module in plain.modules() if again is plain else ():
            plain._init_weights(
                module
            )  # as `from_pretrained` does; some classes look for parts that a method took away
    except Exception as error:  # of a method or of a model of any kind
        return str(error)
    there, here = held(again), held(model)
    return min((n for n in {*there, *here} if there.get(n) != here.get(n)), default=None)


def held(model: Any) -> dict[str, Any]:
    """Shapes of what is saved, how often each module is hooked, and buffers that nobody saves."""
    stored: dict[str, Any] = {n: tuple(t.shape) for n, t in model.state_dict().items()}
    unsaved = {f"{n} (not saved)": tuple(b.shape) for n, b in model.named_buffers() if n not in stored}
    hooks = {f"{n} (hooks)": len(m._forward_hooks) + len(m._forward_pre_hooks) for n, m in model.named_modules()}
    return stored | unsaved | {n: count for n, count in hooks.items() if count}
