"""The backbone of an adapter, as its folder says it: what it is, how to get it again, and whether a given one is it."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor, nn

from gossamer import hosts, zoo
from gossamer.adapted import AdaptedModule
from gossamer.anatomy import Anatomy
from gossamer.architectures.records import COMPOSED
from gossamer.hosts import settings
from gossamer.pixels import MAX_SIZE
from gossamer.storage import AdapterError, check_types

FIELDS = {
    "library": str, "class": str, "name": str | None, "revision": str | None, "fingerprint": str | None, "dtype": str,
    "options": dict, "structure": dict,
}  # fmt: skip
OPTIONS = {"img_size": list, "global_pool": str, "fc_norm": bool, "dynamic_img_size": bool}  # of timm's models
TASKS = {  # ending of a transformers class -> task of the zoo that makes one
    "ForImageClassification": "image-classification",
    "ForSequenceClassification": "text-classification",
    "ForQuestionAnswering": "visual-question-answering",
    "ForImagesAndTextClassification": "two-image-classification",
    "ForRetrieval": "image-text-retrieval",
    "ForSemanticSegmentation": "semantic-segmentation",
    "ForCausalLM": "text-generation",
}
DTYPES = ("float64", "float32", "float16", "bfloat16")


def reference(adapted: AdaptedModule) -> dict[str, Any]:
    """What it takes to find the backbone of an adapter again, and to see that it is the same; JSON."""
    assert adapted.placement is not None, "only what is attached is saved"
    backbone, weights = adapted.backbone, adapted.placement.origins
    with adapted.anatomy.bare():
        parts = {
            name: _reference(part, adapted.fingerprints[name], weights[name].dtype, list(_read(adapted, part).heads))
            for name, part in adapted.host.parts(backbone).items()
        }
    if not isinstance(backbone, hosts.Halves):
        return parts["backbone"]
    first = next(iter(weights.values()))
    whole = _reference(backbone, adapted.fingerprint, first.dtype, [])
    return {**whole, "options": parts | whole["options"]}


def _read(adapted: AdaptedModule, part: nn.Module) -> Anatomy:
    return hosts.read(part, adapted.head_named if part is adapted.backbone else None)


def _reference(model: nn.Module, fingerprint: str | None, dtype: str, heads: list[str]) -> dict[str, Any]:
    host = hosts.of(model)
    return {
        "library": type(model).__module__.partition(".")[0],
        "class": type(model).__name__,
        "name": host.name(model),
        "revision": host.revision(model),
        "fingerprint": fingerprint,
        "dtype": dtype,
        "options": host.options(model),
        "structure": host.structure(model, heads),
    }


def warn(adapted: AdaptedModule, section: dict[str, Any]) -> None:
    """Says of a backbone that nobody will find again under the name that the folder gives, if any.

    Weights whose every norm is as norms are made are those of no published model.
    """
    assert adapted.placement is not None, "only what is attached is saved"
    parts, weights = adapted.host.parts(adapted.backbone), adapted.placement.origins
    with adapted.anatomy.bare():
        own = {
            half: [p for n, p in part.named_parameters() if n in weights[half].shapes and n.endswith(".weight")]
            for half, part in parts.items()
        }
    for half, part in parts.items():
        told = section["options"][half] if isinstance(adapted.backbone, hosts.Halves) else section
        kind, name = type(part).__name__, told["name"]
        if not name:
            warnings.warn(
                f"this {kind} has no name, for it was not loaded by one: gm.load will need backbone=..., so keep its weights",
                stacklevel=4,
            )
        elif _constant(own[half]) and not _made_here(name):
            warnings.warn(
                f"this {kind} is called {name!r} and looks as if it had never been trained: every norm is as it is "
                "made. gm.load will look for the published weights, which are others; load these by their own name, or give "
                "gm.load backbone=...",
                stacklevel=4,
            )


def _constant(tensors: Any) -> bool:
    vectors = [t for t in tensors if t.dim() == 1 and t.numel() > 1 and not t.is_meta]
    return bool(vectors) and all(bool((t == t[0]).all()) for t in vectors)


def _made_here(name: str) -> bool:
    """Whether a name is that of a local folder whose own weights were never trained."""
    if not Path(name).is_dir():
        return False
    found: list[Tensor] = []
    for path in Path(name).glob("*.safetensors"):
        with safetensors.safe_open(path, "pt") as file:
            names = list(file.keys())
            names = [n for n in names if n.endswith(".weight") and len(file.get_slice(n).get_shape()) == 1]
            found += [file.get_tensor(name) for name in names]
    return _constant(found)


# ---- loading ----


def check(section: dict[str, Any], where: str = "adapter_config.json, backbone") -> None:
    """Nothing, where a reference has every field, and of each kind; of a composed model also those of its halves.

    Raises:
        AdapterError: a field is missing, unknown, or of another kind.
    """
    check_types(section, FIELDS, where)
    if section["dtype"] not in DTYPES:
        raise AdapterError(f"{where}: dtype is {section['dtype']!r:.60}; it can be {', '.join(DTYPES)}")
    options, inside = section["options"], f"{where}, options"
    if section["class"] in COMPOSED:
        kind = COMPOSED[section["class"]]
        check_types(options, {**dict.fromkeys(kind.halves, dict), **kind.fields}, inside)
        for half in kind.halves:
            check(options[half], f"{inside}, {half}")
    elif section["library"] == "timm":
        check_types(options, {name: kind for name, kind in OPTIONS.items() if name in options}, inside)
        size = options.get("img_size", [1])
        if not all(type(n) is int and 1 <= n <= MAX_SIZE for n in size):
            raise AdapterError(f"{inside}: img_size must be whole numbers up to {MAX_SIZE:,}, found {size!r:.60}")


def check_class(backbone: nn.Module, section: dict[str, Any]) -> None:
    """Nothing, where a backbone is of the class that a reference says.

    Raises:
        AdapterError: it is of another.
    """
    if type(backbone).__name__ != section["class"]:
        raise AdapterError(
            f"this adapter is for a {section['class']} and the given backbone is a {type(backbone).__name__}; "
            f"give it {section['name'] or 'the model it was trained on'}"
        )
    if isinstance(backbone, hosts.Halves):
        for half, part in backbone.parts.items():
            check_class(part, section["options"][half])


def check_settings(
    backbone: nn.Module, section: dict[str, Any], versions: Mapping[str, Any], head: list[str] | None = None
) -> None:
    """Nothing, where a backbone computes what the one did that the adapter was trained on, as far as no weight says it.

    The modules of a model are compared within one version of its library, which names them; `head` are those that were named its
    heads.

    Raises:
        AdapterError: it does not; the message names the settings.
    """
    if isinstance(backbone, hosts.Halves) and (apart := backbone.apart(section["options"])):
        raise AdapterError(
            f"this {type(backbone).__name__} is not made as the one it was trained on: {'; '.join(apart)}; make it so, or leave "
            "backbone= out where the folder names it"
        )
    for half, part in hosts.of(backbone).parts(backbone).items():
        told, host = section["options"][half] if isinstance(backbone, hosts.Halves) else section, hosts.of(part)
        found = settings.apart(told["options"], host.options(part))
        if not found and versions.get(told["library"]) == version(told["library"]):
            heads = hosts.read(part, head if part is backbone else None).heads
            found = settings.apart(told["structure"], host.structure(part, heads), "not there")
        if found:
            more = f", and {len(found) - 3} more" if len(found) > 3 else ""
            raise AdapterError(
                f"this {type(part).__name__} computes something else than the one it was trained on: {'; '.join(found[:3])}{more}; "
                "load the backbone with these settings, or leave backbone= out where the folder names it"
            )


def check_weights(adapted: AdaptedModule, section: dict[str, Any]) -> None:
    """Nothing, where the weights are those that the adapter was trained on.

    Raises:
        AdapterError: they are others.
    """
    for half, part in adapted.host.parts(adapted.backbone).items():
        told = _of(half, section)
        if told["fingerprint"] not in (None, adapted.fingerprints[half]):
            raise AdapterError(
                f"it was trained on other weights than those of this {type(part).__name__} (fingerprint "
                f"{told['fingerprint'][:12]}, found {str(adapted.fingerprints[half])[:12]}); load "
                f"{told['name'] or 'the backbone it was trained on'} in {told['dtype']}"
            )


def adopt(adapted: AdaptedModule, section: dict[str, Any], where: str) -> None:
    """An adapter that has taken tensors from elsewhere says from then on which weights those were trained on.

    Warns where this backbone has others: a folder of it then fits the backbone that the tensors come from, not this one.

    Raises:
        AdapterError: the reference is malformed, or of another composition of halves.
    """
    check(section, where)
    halves = sorted(hosts.of(adapted.backbone).parts(adapted.backbone))
    found = sorted(COMPOSED[section["class"]].halves) if section["class"] in COMPOSED else ["backbone"]
    if found != halves:
        raise AdapterError(f"{where}: it is of a {section['class']}, and this is a {type(adapted.backbone).__name__}")
    told = {half: _of(half, section)["fingerprint"] for half in halves}
    others = [
        half for half in halves if None not in (told[half], here := adapted.fingerprints[half]) and told[half] != here
    ]
    if others:
        warnings.warn(
            f"these tensors were trained on other weights than those of this {type(adapted.backbone).__name__} "
            f"({', '.join(others)}; {section['class']}, {section['name'] or 'of no published name'}, fingerprint "
            f"{str(told[others[0]])[:12]}): the outputs are others than they had, and a folder saved from here names the weights "
            "they were trained on. To go on over this backbone on purpose, leave `_extra_state` out of the state dict",
            stacklevel=5,
        )
    adapted.fingerprints = {half: told[half] or adapted.fingerprints[half] for half in halves}


def _of(half: str, section: dict[str, Any]) -> dict[str, Any]:
    """The part of a reference that speaks of this half of a model, or of the one there is."""
    return section["options"][half] if section["class"] in COMPOSED else section


def load(section: dict[str, Any], head: dict[str, Any]) -> nn.Module:
    """The pre-trained model that a reference names, from the zoo, with its settings.

    Raises:
        AdapterError: it has no name, is not to be had, or cannot have these settings.
    """
    if section["class"] in COMPOSED:
        kind, told = COMPOSED[section["class"]], section["options"]
        return kind(
            **{half: load(told[half], {}) for half in kind.halves}, **{name: told[name] for name in kind.fields}
        )
    if not section["name"]:
        raise AdapterError(
            f"the folder does not say where its {section['class']} came from (it was not loaded by name); give backbone=..."
        )
    options = {} if section["dtype"] == "float32" else {"dtype": section["dtype"]}
    try:
        model = published(section, head, options)
        changed = hosts.of(model).restoring(model, section["options"])
        return model if not changed else published(section, head, {**options, **changed})
    except (ValueError, TypeError, OSError) as error:
        raise AdapterError(
            f"its backbone {section['name']!r:.80} could not be loaded: {error}; give backbone=..."
        ) from error


def published(section: dict[str, Any], head: dict[str, Any], options: dict[str, Any]) -> nn.Module:
    """The model of the class, name and revision that a reference says, as it was published but for `options` and its head."""
    task = next((t for ending, t in TASKS.items() if section["class"].endswith(ending)), None)
    labels = head["outputs"] if task not in (None, "text-generation") and not head["built"] else None
    where = {"revision": section["revision"], **options}
    model: Any = zoo.load(section["name"], task=task, num_labels=labels, **where)
    known = (type(model).__name__, type(getattr(model, "base_model", model)).__name__)
    if section["library"] == "transformers" and section["class"] not in known:  # a part of what was published
        model = zoo.load(section["name"], kind=section["class"], **where)
    bare = getattr(model, "base_model", model)
    if type(model).__name__ == section["class"] or type(bare).__name__ != section["class"]:
        return model
    bare.name_or_path = model.name_or_path  # published with a head, adapted without
    return bare


def version(package: str) -> str | None:
    """The installed version of a package; None where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
