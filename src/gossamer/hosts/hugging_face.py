"""Models of transformers, and models written in its style: what a configuration says, and inputs by name."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from gossamer.anatomy import Anatomy
from gossamer.errors import UserError
from gossamer.hosts import checkpointing, heads, settings
from gossamer.hosts.base import Host, ReadOut


class HuggingFace(Host):
    """A model with a configuration of transformers."""

    kind = "transformers"

    def knows(self, model: nn.Module) -> bool:
        """Whether a configuration of transformers is there."""
        return isinstance(getattr(model, "config", None), PreTrainedConfig)

    # ---- inputs and outputs ----

    def run(self, model: Any, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> Any:
        """Inputs as they are."""
        return model(*args, **inputs)

    def respond(
        self, model: Any, readout: ReadOut, args: tuple[Any, ...], inputs: Mapping[str, Any], labels: Tensor | None
    ) -> Any:
        """The model's own output, and its own loss."""
        return model(*args, **inputs, **({} if labels is None else {"labels": labels}))

    def features(self, model: Any, readout: ReadOut, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> Tensor:
        """What the family reads out of the last states."""
        stack = readout.stack
        if stack.modality == "text" and not args and "input_ids" not in inputs and "inputs_embeds" not in inputs:
            raise UserError("a text model needs input_ids")
        output = model(*args, **inputs)
        ledger = readout.session.ledger(stack)
        return heads.read_out(stack, output, inputs, two_sided=readout.two_sided, ledger=ledger)

    def accepts_loss_kwargs(self, model: Any) -> bool:
        """As Trainer finds it: what the model says, else whether its forward takes any keyword."""
        parameters = inspect.signature(model.forward).parameters.values()
        return getattr(model, "accepts_loss_kwargs", any(p.kind is p.VAR_KEYWORD for p in parameters))

    # ---- heads and labels ----

    def heads(self, model: Any, anatomy: Anatomy) -> dict[str, nn.Module]:
        """In a task model (`...For...`), every child with parameters that neither runs blocks nor embeds tokens.

        The output embeddings of a language model are part of what was pre-trained, not a task head.
        """
        if "For" not in type(model).__name__:
            return {}
        output, found = self.output_embeddings(model), {}
        for name, child in model.named_children():
            runs_blocks = any(owner == name or owner.startswith(f"{name}.") for owner in anatomy.owners.values())
            runs_blocks = runs_blocks or any(b.name.startswith(f"{name}.") for b in anatomy)
            embeds = child is output or isinstance(child, nn.Embedding)
            if not (runs_blocks or embeds or next(child.parameters(), None) is None):
                found[name] = child
        return found

    def output_embeddings(self, model: Any) -> nn.Module | None:
        """As the model says it."""
        return getattr(model, "get_output_embeddings", lambda: None)()

    def width(self, anatomy: Anatomy) -> int:
        """The configuration's hidden size, which for Swin is that of the last stage."""
        own = anatomy.blocks()[-1].sizes.width
        return getattr(getattr(anatomy.owner(), "config", None), "hidden_size", own)

    def labels(self, model: Any) -> dict[str, Any]:
        """`num_labels` of the model, and the names in its configuration where it has any."""
        known = model.config.__dict__
        return {
            "model": {n: model.__dict__[n] for n in ("num_labels",) if n in model.__dict__},
            "config": {n: dict(known[n]) for n in ("id2label", "label2id") if known.get(n) is not None},
        }

    def tell_labels(self, model: Any, said: Mapping[str, Any]) -> None:
        """Model and configuration."""
        for name, value in said["model"].items():
            setattr(model, name, value)
        for name, value in said["config"].items():
            setattr(model.config, name, value)

    def tell_outputs(self, model: Any, num_labels: int) -> None:
        """Configuration and model, where each speaks of labels."""
        for holder in (model.config, model):
            if hasattr(holder, "num_labels"):
                holder.num_labels = num_labels

    def tell_untied(self, model: Any) -> None:
        """Its configuration, which would tie them when the model is loaded again."""
        model.config.tie_word_embeddings = False

    # ---- checkpointing ----

    def checkpoint(self, model: Any, kwargs: dict[str, Any] | None, **options: Any) -> None:
        """By transformers' own switch."""
        kwargs = checkpointing.never_reentrant(kwargs)
        if hasattr(model, "activation_checkpointing_enable"):
            model.activation_checkpointing_enable(kwargs, **options)
        else:  # transformers before that name
            model.gradient_checkpointing_enable(kwargs, **options)

    def keep_activations(self, model: Any) -> None:
        """By transformers' own switch."""
        if hasattr(model, "activation_checkpointing_disable"):
            model.activation_checkpointing_disable()
        else:
            model.gradient_checkpointing_disable()
        model.disable_input_require_grads()

    # ---- where it came from ----

    def name(self, model: Any) -> str | None:
        """`name_or_path`."""
        return str(model.name_or_path) if getattr(model, "name_or_path", None) else None

    def revision(self, model: Any) -> str | None:
        """The commit that transformers keeps in the configuration."""
        return getattr(model.config, "_commit_hash", None)

    def options(self, model: Any) -> dict[str, Any]:
        """What the configuration says that its class does not."""
        return settings.difference(model.config)

    def restoring(self, model: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that are published otherwise, where they leave every weight its shape."""
        changed = settings.whole(model.config, options)
        counts = [n for n in changed if "layers" in n or "depth" in n]  # a model of a million layers is never finished
        if counts:
            raise UserError(f"it was published with another {counts[0]} than {changed[counts[0]]!r:.40}")
        if not changed:
            return {}
        config = copy.deepcopy(model.config)
        config.update({n: v for n, v in changed.items() if not isinstance(v, Mapping)})
        for name, inner in changed.items():
            if isinstance(inner, Mapping):
                getattr(config, name).update(inner)
        with torch.device("meta"):
            twin = type(model)(config)
        shapes = {n: p.shape for n, p in model.named_parameters()}
        wrong = [n for n, p in twin.named_parameters() if shapes.get(n) != p.shape]
        if wrong:
            raise UserError(f"the published weights do not fit {', '.join(changed)}: {wrong[0]}")
        return changed
