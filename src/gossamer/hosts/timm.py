"""Models of timm: one image as input, under a name of each model's own; a classifier that is always there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.anatomy import Anatomy
from gossamer.anatomy.stack import Modality
from gossamer.errors import WrongKind
from gossamer.hosts import checkpointing, settings
from gossamer.hosts.base import Host, ReadOut


class Timm(Host):
    """A model of timm, or of a class that inherits from one."""

    kind = "timm"

    def knows(self, model: nn.Module) -> bool:
        """Whether its class, or one that it inherits from, is a model of timm's: has features, which layers have not."""
        timms = any(c.__module__.partition(".")[0] == "timm" for c in type(model).__mro__)
        return timms and (hasattr(model, "forward_features") or hasattr(model, "feature_info"))

    # ---- inputs and outputs ----

    def modality(self, model: Any) -> Modality:
        """Images."""
        return "vision"

    def run(self, model: Any, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> Any:
        """The images by position."""
        images, others = _by_position(inputs)
        return model(*args, *images, **others)

    def respond(
        self, model: Any, readout: ReadOut, args: tuple[Any, ...], inputs: Mapping[str, Any], labels: Tensor | None
    ) -> Any:
        """An image by position alone is answered as timm does; inputs by name, and labels, as transformers does."""
        as_tuple, inputs = self.wants_tuple(model, inputs)
        logits = self.run(model, args, inputs)
        if args and labels is None:
            return logits
        answer = readout.answer(logits, labels)
        return answer.to_tuple() if as_tuple else answer

    def features(self, model: Any, readout: ReadOut, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> Tensor:
        """What timm's own classifier reads."""
        images, others = _by_position(inputs)
        return model.forward_head(model.forward_features(*args, *images, **others), pre_logits=True)

    def accepts_loss_kwargs(self, model: Any) -> bool:
        """Never: the loss is ours."""
        return False

    # ---- heads and labels ----

    def heads(self, model: Any, anatomy: Anatomy) -> dict[str, nn.Module]:
        """Its classifier, or classifiers (distilled models have two): what it gives for one, and what its notes call one.

        Raises:
            TypeError: it gives feature maps (features_only=True), or logits of every token (global_pool="").
        """
        if not hasattr(model, "get_classifier"):
            raise WrongKind(
                f"{type(model).__name__} gives feature maps of several depths (features_only=True), which no head of a classifier "
                "reads: create the model without features_only"
            )
        said = _notes(model).get("classifier")
        names = {*([said] if isinstance(said, str) else said or ())}
        own = model.get_classifier()
        given = {id(m) for m in (own if isinstance(own, tuple | list) else [own])}
        found = {n: m for n, m in model.named_modules() if n in names or id(m) in given}
        outermost = {n: m for n, m in found.items() if not any(n.startswith(f"{other}.") for other in found)}
        heads = {n: m for n, m in outermost.items() if next(m.parameters(), None) is not None}
        if heads:
            self._check_pooled(model)
        return heads

    def unclaimed(self, model: Any) -> list[str]:
        """In a class of the user's: what the class of timm's that it inherits from does not have.

        Where that class cannot be made without arguments, which none with one list of blocks needs, its own parts are among them.
        """
        kind = next(c for c in type(model).__mro__ if c.__module__.partition(".")[0] == "timm")
        if kind is type(model):
            return []
        own: set[str] = set()
        with contextlib.suppress(TypeError), torch.device("meta"):
            own = {name for name, _ in kind().named_children()}
        return [n for n, child in model.named_children() if n not in own and next(child.parameters(), None) is not None]

    def check_readable(self, model: Any, readout: ReadOut) -> None:
        """By its pooling."""
        self._check_pooled(model)

    def _check_pooled(self, model: Any) -> None:
        places = (model, getattr(model, "head", None))
        pools = [pool for place in places if (pool := getattr(place, "global_pool", None)) is not None]
        if any(pool == "" or getattr(pool, "pool_type", None) == "" for pool in pools):
            raise WrongKind(
                f"this {type(model).__name__} was created with global_pool='': it gives features of every token or place, and a "
                "head reads one vector for each image; create it with global_pool='token' or 'avg'"
            )

    def outputs(self, model: Any) -> int | None:
        """`num_classes`."""
        return model.num_classes

    def output_embeddings(self, model: Any) -> nn.Module | None:
        """None: no language models."""
        return None

    def width(self, anatomy: Anatomy) -> int:
        """That of what its classifier reads."""
        model: Any = anatomy.model
        return getattr(model, "head_hidden_size", model.num_features)

    def labels(self, model: Any) -> dict[str, Any]:
        """`num_classes`."""
        return {"num_classes": model.num_classes}

    def tell_labels(self, model: Any, said: Mapping[str, Any]) -> None:
        """`num_classes`."""
        model.num_classes = said["num_classes"]

    def tell_outputs(self, model: Any, num_labels: int) -> None:
        """`num_classes`."""
        model.num_classes = num_labels

    # ---- checkpointing ----

    def checkpoint(self, model: Any, kwargs: dict[str, Any] | None, **options: Any) -> None:
        """By timm's own switch, which has no options."""
        checkpointing.never_reentrant(kwargs)
        model.set_grad_checkpointing(True)

    def keep_activations(self, model: Any) -> None:
        """By timm's own switch."""
        model.set_grad_checkpointing(False)

    # ---- where it came from ----

    def name(self, model: Any) -> str | None:
        """The one that `zoo.load` noted, else the hub's in timm's own notes."""
        noted = getattr(model, "name_or_path", None)
        return str(noted) if noted else _notes(model).get("hf_hub_id")

    def revision(self, model: Any) -> str | None:
        """None: timm does not say."""
        return None

    def options(self, model: Any) -> dict[str, Any]:
        """The size of images, which timm builds a model for, and how it pools."""
        size = getattr(getattr(model, "patch_embed", None), "img_size", None)
        pooled: dict[str, Any] = {} if size is None else {"img_size": list(size)}
        if isinstance(getattr(model, "global_pool", None), str):
            pooled["global_pool"] = model.global_pool
        if isinstance(getattr(model, "fc_norm", None), nn.Module):
            pooled["fc_norm"] = not isinstance(model.fc_norm, nn.Identity)
        if isinstance(getattr(model, "dynamic_img_size", None), bool):
            pooled["dynamic_img_size"] = model.dynamic_img_size
        return pooled

    def structure(self, model: Any, heads: Iterable[str]) -> dict[str, str]:
        """All modules: timm keeps no record of what a model was made with."""
        return settings.structure(model, heads)

    def restoring(self, model: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        """All options where one is published otherwise: what timm makes of one depends on the others."""
        return dict(options) if dict(options) != self.options(model) else {}


def _by_position(inputs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Images, which timm's models have no common name for, and what else is given."""
    others = {name: value for name, value in inputs.items() if name != "pixel_values"}
    return tuple(inputs[name] for name in inputs if name == "pixel_values"), others


def _notes(model: Any) -> Mapping[str, Any]:
    """What timm notes on a model that `create_model` made; nothing on one of which its class was called."""
    return getattr(model, "pretrained_cfg", None) or {}
