"""Models of transformers, and models written in its style: what a configuration says, and inputs by name."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import typing
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from gossamer.anatomy import Anatomy
from gossamer.anatomy.stack import Modality
from gossamer.errors import UserError, WrongKind
from gossamer.hosts import checkpointing, dense, heads, settings
from gossamer.hosts.base import Host, ReadOut

LABELS = (
    "num_labels",
    "num_qa_labels",
)  # where a configuration or a model says how many it has; the second is LXMERT's


DENSE, PROBED = "ForSemanticSegmentation", 64  # end of the names of classes, and pixels of an image that they all read


class HuggingFace(Host):
    """A model with a configuration of transformers."""

    kind = "transformers"

    def knows(self, model: nn.Module) -> bool:
        """Whether a configuration of transformers is there."""
        return isinstance(getattr(model, "config", None), PreTrainedConfig)

    # ---- inputs and outputs ----

    def modality(self, model: Any) -> Modality:
        """By the name of the main input, and of those beside it."""
        takes = {"input_ids", "pixel_values"} & set(inspect.signature(model.forward).parameters)
        return "both" if len(takes) == 2 else "vision" if model.main_input_name.startswith("pixel_values") else "text"

    def names_outputs(self, model: Any) -> bool:
        """As its configuration says."""
        return bool(model.config.return_dict)

    def check_readable(self, model: Any, readout: ReadOut) -> None:
        """By the kind of output that the class says it returns."""
        name = "pooler_output" if readout.stack.readout == "pooled" else "last_hidden_state"
        given = _returned(model)
        if given and name not in given:
            raise WrongKind(
                f"{type(model).__name__} gives {', '.join(sorted(given))} and no {name} that a head could read; give the bare "
                "model (CLIPVisionModel for CLIPVisionModelWithProjection) or one that brings its head (...ForImageClassification)"
                + ("; to tell classes apart by words, gossamer.ZeroShot" if "logits_per_image" in given else "")
            )

    def run(self, model: Any, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> Any:
        """Inputs as they are."""
        return model(*args, **inputs)

    def respond(
        self, model: Any, readout: ReadOut, args: tuple[Any, ...], inputs: Mapping[str, Any], labels: Tensor | None
    ) -> Any:
        """The model's own output, and its own loss; of a model that has none, ours of its logits."""
        if labels is None:
            return model(*args, **inputs)
        if "labels" in inspect.signature(model.forward).parameters:
            return model(*args, **inputs, labels=labels)
        as_tuple, inputs = self.wants_tuple(model, inputs)
        output = model(*args, **inputs, **self._named(model))
        if getattr(output, "logits", None) is None:
            return output.to_tuple() if as_tuple else output  # a bare model: there is nothing that labels belong to
        answer = readout.answer(output.logits, labels)
        return answer.to_tuple() if as_tuple else answer

    def _named(self, model: Any) -> dict[str, bool]:
        return {} if self.names_outputs(model) else {"return_dict": True}

    def features(self, model: Any, readout: ReadOut, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> Tensor:
        """What the family reads out of the last states."""
        stack = readout.stack
        if stack.modality == "text" and not args and "input_ids" not in inputs and "inputs_embeds" not in inputs:
            raise UserError("a text model needs input_ids")
        output = model(*args, **inputs, **self._named(model))
        ledger = readout.session.ledger(stack)
        return heads.read_out(stack, output, inputs, two_sided=readout.two_sided, ledger=ledger)

    def finish(self, model: Any) -> None:
        """Of a model that gives every pixel logits, batch norms go into the convolutions before them."""
        if not type(model).__name__.endswith(DENSE) or not any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
            return
        size = getattr(model.config, "image_size", None) or PROBED
        first = next(model.parameters())
        pixels = torch.ones(1, 3, size, size, device=first.device, dtype=first.dtype)
        dense.fold_found(model, lambda: model(pixel_values=pixels).logits)

    def accepts_loss_kwargs(self, model: Any) -> bool:
        """As Trainer finds it: what the model says, else whether its forward takes any keyword."""
        parameters = inspect.signature(model.forward).parameters.values()
        return getattr(model, "accepts_loss_kwargs", any(p.kind is p.VAR_KEYWORD for p in parameters))

    # ---- heads and labels ----

    def heads(self, model: Any, anatomy: Anatomy) -> dict[str, nn.Module]:
        """What a task model declares to have beside its `base_model`: the children outside of it that have parameters.

        A bare model has none. Nor has a language model: its output embeddings are part of what was pre-trained. A task model
        that names no base model (CLIPForImageClassification) has its pre-trained models as children, and the heads beside them.
        """
        if _bare(model) or self.output_embeddings(model) is not None:
            return {}
        base = model.base_model
        children = {n: c for n, c in model.named_children() if c is not base and next(c.parameters(), None) is not None}
        if base is not model:
            return children
        return {n: c for n, c in children.items() if not isinstance(c, PreTrainedModel | nn.Embedding)}

    def unclaimed(self, model: Any) -> list[str]:
        """In a class of the user's: what the class of transformers that it inherits from does not have."""
        kind = _published(model)
        if kind is type(model):
            return []
        if kind.__name__.endswith("PreTrainedModel"):  # an abstract one, whose base_model_prefix is all that is said
            declared = model.base_model is not model
            return [] if declared else [n for n, c in _parametrized(model) if not isinstance(c, PreTrainedModel)]
        with torch.device("meta"):
            own = {n for n, _ in kind(copy.deepcopy(model.config)).named_children()}
        return [n for n, _ in _parametrized(model) if n not in own]

    def outputs(self, model: Any) -> int | None:
        """`num_labels`, or what LXMERT calls it."""
        places = [(place, name) for name in reversed(LABELS) for place in (model, model.config)]
        return next((getattr(place, name) for place, name in places if hasattr(place, name)), None)

    def output_embeddings(self, model: Any) -> nn.Module | None:
        """As the model says it."""
        return getattr(model, "get_output_embeddings", lambda: None)()

    def width(self, anatomy: Anatomy) -> int:
        """The configuration's hidden size, which for Swin is that of the last stage."""
        gives = anatomy.readout.gives if anatomy.stacks else None
        if gives is not None:
            return gives.width(anatomy.owner().config)
        if anatomy.stacks:
            own = anatomy.blocks()[-1].sizes.width
            return getattr(getattr(anatomy.owner(), "config", None), "hidden_size", own)
        config = anatomy.model.config
        stages = getattr(config, "hidden_sizes", None)
        found = stages[-1] if stages else getattr(config, "hidden_size", None)
        if not isinstance(found, int):
            raise WrongKind(
                f"the configuration of {type(anatomy.model).__name__} does not say how wide its states are (hidden_size), so no "
                "head can be built on them: load the class that brings its head (...ForImageClassification)"
            )
        return found

    def labels(self, model: Any) -> dict[str, Any]:
        """`num_labels` of the model, the names in its configuration where it has any, and what its loss is."""
        known = model.config.__dict__
        return {
            "model": {n: model.__dict__[n] for n in LABELS if n in model.__dict__},
            "config": {n: copy.copy(known[n]) for n in (*LABELS, "id2label", "label2id", "problem_type") if n in known},
        }

    def tell_labels(self, model: Any, said: Mapping[str, Any]) -> None:
        """Model and configuration."""
        for name, value in said["model"].items():
            setattr(model, name, value)
        for name, value in said["config"].items():
            setattr(model.config, name, value)

    def tell_outputs(self, model: Any, num_labels: int) -> None:
        """Configuration and model, where each speaks of labels. A head of another size has another loss than the one before."""
        if self.outputs(model) != num_labels:
            model.config.problem_type = None  # transformers then decides by the first labels
        for holder in (model.config, model):
            for name in LABELS:
                if hasattr(holder, name):
                    setattr(holder, name, num_labels)

    def tell_untied(self, model: Any) -> None:
        """Its configuration, which would tie them when the model is loaded again."""
        model.config.tie_word_embeddings = False

    # ---- checkpointing ----

    def checkpoint(self, model: Any, kwargs: dict[str, Any] | None, **options: Any) -> None:
        """By transformers' own switch, without the gradients of embeddings that it asks for in some models.

        Those are for re-entrant checkpointing alone, and GIT adds to its embeddings in place, which such a leaf forbids.
        """
        kwargs = checkpointing.never_reentrant(kwargs)
        if hasattr(model, "activation_checkpointing_enable"):
            model.activation_checkpointing_enable(kwargs, **options)
        else:  # transformers before that name
            model.gradient_checkpointing_enable(kwargs, **options)
        model.disable_input_require_grads()

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


def _parametrized(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children that have parameters."""
    return [(n, c) for n, c in model.named_children() if next(c.parameters(), None) is not None]


def _published(model: nn.Module) -> type[nn.Module]:
    """The class of a model that transformers, or Gossamer, publishes: its own, or the nearest that it inherits from."""
    ours = ("transformers", "gossamer")
    return next((c for c in type(model).__mro__ if c.__module__.partition(".")[0] in ours), type(model))


def _bare(model: nn.Module) -> bool:
    """Whether its class is a bare model, without a task: what AutoModel gives, or a class whose name says no task."""
    name = _published(model).__name__
    bare = {n for names in MODEL_MAPPING_NAMES.values() for n in ([names] if isinstance(names, str) else names)}
    return name in bare or ("For" not in name and not name.endswith("PreTrainedModel"))


def _returned(model: nn.Module) -> set[str]:
    """Names of what a model's forward pass says that it returns; empty where it does not say."""
    try:
        said = typing.get_type_hints(inspect.unwrap(type(model).forward)).get("return")
    except NameError:  # a name that is imported for type checkers alone
        return set()
    kinds = [k for k in (said, *typing.get_args(said)) if isinstance(k, type) and dataclasses.is_dataclass(k)]
    return {f.name for k in kinds for f in dataclasses.fields(k)}
