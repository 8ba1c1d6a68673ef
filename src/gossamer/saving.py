"""Adapters as folders: what `save_pretrained` writes and `load` checks, field by field (see docs/saving.md)."""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from gossamer import hosts, methods, storage, zoo
from gossamer.adapted import AdaptedModule, occupant
from gossamer.anatomy import Anatomy
from gossamer.cost import cost
from gossamer.errors import UserError
from gossamer.hosts import heads
from gossamer.models.vision_language import VisionLanguage
from gossamer.storage import AdapterError

A = TypeVar("A", bound=AdaptedModule)

FIELDS = {
    "methods": list, "stacks": dict, "backbone": dict, "head": dict, "metadata": dict, "cost": dict, "versions": dict,
}  # fmt: skip
BACKBONE_FIELDS = {
    "library": str, "class": str, "name": str | None, "revision": str | None, "fingerprint": str | None, "dtype": str,
    "options": dict,
}  # fmt: skip
_TOLERATED = 2**24  # numbers, 64 MB
OPTIONS = {"img_size": list}  # of timm's models
HALVES = ("vision", "language")  # of composed models, each with a reference of its own
HEAD_FIELDS = {"outputs": int | None, "built": bool, "trained": bool, "modules": list | None}
PACKAGES = ("torch", "transformers", "peft", "timm")
TASKS = {  # ending of a transformers class -> task of the zoo that makes one
    "ForImageClassification": "image-classification",
    "ForSequenceClassification": "text-classification",
    "ForQuestionAnswering": "visual-question-answering",
    "ForImagesAndTextClassification": "two-image-classification",
    "ForRetrieval": "image-text-retrieval",
    "ForCausalLM": "text-generation",
}


def save(adapted: AdaptedModule, folder: str | Path) -> None:
    """Writes adapter_config.json, adapter_model.safetensors and README.md; the old folder or the new one survives any kill.

    Raises:
        AdapterError: the adapter is detached, or a tensor is not finite.
    """
    if not adapted.attached:
        raise AdapterError("this adapter is detached from its backbone, so it cannot be saved: call attach() first")
    config = describe(adapted)
    storage.write(folder, config, adapted.state_dict(), card(config))


def describe(adapted: AdaptedModule) -> dict[str, Any]:
    """Everything about an adapter but its tensors, as JSON."""
    backbone, fingerprints = adapted.backbone, adapted.fingerprints
    options = adapted.host.options(backbone)
    if isinstance(backbone, VisionLanguage):
        options = {name: _reference(part, fingerprints[name], {}) for name, part in backbone.parts.items()}
    return {
        "methods": [methods.to_dict(m) for m in adapted.applied],
        "stacks": _stacks(adapted.anatomy),
        "backbone": _reference(backbone, adapted.fingerprint, options),
        "head": {
            "outputs": _outputs(adapted),
            "built": adapted.head_built is not None,
            "trained": adapted.train_head,
            "modules": None if adapted.head_named is None else list(adapted.head_named),
        },
        "metadata": dict(adapted.metadata),
        "cost": _cost(adapted),
        "versions": {p: _version(p) for p in PACKAGES},
    }


def _cost(adapted: AdaptedModule) -> dict[str, Any]:
    """The cost sheet, or why there is none: an adapter is saved whether or not somebody can count what it costs."""
    try:
        return cost(adapted, **_image_size(adapted)).to_dict()
    except UserError as error:
        return {"not counted": str(error)}


def _reference(model: nn.Module, fingerprint: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """What it takes to find the same pre-trained model again, and to see that it is the same."""
    host = hosts.of(model)
    return {
        "library": type(model).__module__.partition(".")[0],
        "class": type(model).__name__,
        "name": host.name(model),
        "revision": host.revision(model),
        "fingerprint": fingerprint,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "options": options,
    }


def load(folder: str | Path, backbone: nn.Module | None = None, *, make: Callable[..., A]) -> A:
    """See `gossamer.load`; `make` builds the adapted model from backbone and methods."""
    config, tensors = storage.read(_local(folder))
    _check(config, FIELDS, "adapter_config.json")
    _check(config["backbone"], BACKBONE_FIELDS, "adapter_config.json, backbone")
    _check(config["head"], HEAD_FIELDS, "adapter_config.json, head")
    _check_options(config["backbone"])
    applied = _methods(config["methods"])
    if isinstance(backbone, AdaptedModule):
        backbone = backbone.backbone
    if backbone is None:
        backbone = _backbone(config["backbone"], config["head"])
    _check_class(backbone, config["backbone"])
    other = occupant(backbone)
    if other is not None:
        other.detach()
    try:
        return _place(backbone, applied, config, tensors, make)
    except AdapterError as error:
        if other is not None:
            other.attach()
        raise AdapterError(f"{folder}: {error}") from error.__cause__


def _place(
    backbone: nn.Module,
    applied: list[methods.Method],
    config: dict[str, Any],
    tensors: dict[str, Tensor],
    make: Callable[..., A],
) -> A:
    """The adapter on a bare backbone, which stays as it is where anything does not fit."""
    anatomy = _read(backbone, config)
    try:
        _check_size(anatomy, applied, config, tensors)
        section = config["head"]
        named = {"head": section["modules"], "train_head": section["trained"]}
        adapted = make(backbone, applied, num_labels=section["outputs"], **named)
    except AdapterError:
        raise
    except Exception as error:  # whatever a method says about settings that came from a file
        raise AdapterError(f"its methods do not fit {type(backbone).__name__}: {error}") from error
    try:
        _check_fingerprint(adapted, config)
        adapted.load_state_dict(tensors)
    except AdapterError:
        adapted.detach()
        raise
    adapted.metadata = config["metadata"]
    return adapted.eval()


def push_to_hub(adapted: AdaptedModule, repository: str, **options: Any) -> str:
    """Saves an adapter and uploads its folder to `repository` ("user/name") of the Hugging Face hub; returns the address.

    `options` go to `huggingface_hub.HfApi.create_repo` (private, token, ...).
    """
    from huggingface_hub import HfApi

    api = HfApi(token=options.pop("token", None))
    with tempfile.TemporaryDirectory() as folder:
        save(adapted, Path(folder) / "adapter")
        api.create_repo(repository, exist_ok=True, **options)
        return str(api.upload_folder(repo_id=repository, folder_path=Path(folder) / "adapter"))


def card(config: dict[str, Any]) -> str:
    """The model card: what was adapted, how, at what cost, with what result."""
    metadata, backbone = config["metadata"], config["backbone"]
    names = ", ".join(m["method"] for m in config["methods"])
    parts = [backbone["options"][half] for half in HALVES if half in backbone["options"]] or [backbone]
    base = " + ".join(part["name"] or part["class"] for part in parts)
    published = [part["name"] for part in parts if part["name"]]
    lines = ["---", "library_name: gossamer", "tags: [gossamer, parameter-efficient]"]
    lines += [f"base_model: {published[0] if len(published) == 1 else json.dumps(published)}"] if published else []
    lines += ["---", "", f"# {base}, adapted by {names}", ""]
    lines += [f"Task: {metadata['task']}.", ""] if "task" in metadata else []
    labels = [str(label) for label in metadata.get("labels", [])]
    shown = ", ".join(labels[:20]) + (f", ... ({len(labels)} in all)" if len(labels) > 20 else "")
    lines += [f"Labels: {shown}.", ""] if labels else []
    lines += ["```python", "import gossamer as gm", "", 'adapted = gm.load("this folder")', "```", "", "## Cost", ""]
    lines += [
        f"- {name.replace('_', ' ')}: {value}" for name, value in config["cost"].items() if not isinstance(value, dict)
    ]
    if metadata.get("results"):
        lines += ["", "## Results", ""]
        lines += [
            f"- {name}: {value}" for name, value in metadata["results"].items() if not isinstance(value, dict | list)
        ]
    lines += ["", "## Exports", ""] if metadata.get("exports") else []
    lines += [f"- {name}: {_exported(found)}" for name, found in metadata.get("exports", {}).items()]
    settings = [f"- {k}: {v}" for m in config["methods"] for k, v in m.items() if k != "method" and v is not None]
    return "\n".join([*lines, "", "## Settings", "", *settings, ""])


def _exported(found: dict[str, Any]) -> str:
    """One exported file in words: how fast, how equal, and how accurate where it is not meant to be equal."""
    time, accuracy = found["latency"], found.get("accuracy")
    said = (
        f"a batch of {time['batch']} in {time['exported']:.1f} ms, {time['torch']:.1f} ms in torch; logits differ by "
        f"{found['difference']:.1g}"
    )
    if accuracy:
        said += f"; {accuracy['split']} accuracy {accuracy['exported']:.2%}, as trained {accuracy['adapter']:.2%}"
    return said


def _methods(section: Any) -> list[methods.Method]:
    if not isinstance(section, list) or not section or not all(isinstance(m, dict) for m in section):
        raise AdapterError(
            f"adapter_config.json, methods: expected a list of methods with their settings, found {section!r:.80}"
        )
    applied = []
    for i, values in enumerate(section):
        try:
            applied.append(methods.from_dict(values))
        except (ValueError, TypeError, KeyError) as error:
            raise AdapterError(f"adapter_config.json, methods[{i}]: {error}") from error
        if applied[-1].name != "peft":
            storage.check_fields(values, methods.to_dict(applied[-1]), f"adapter_config.json, methods[{i}]")
    return applied


def _check_options(section: dict[str, Any]) -> None:
    """The options of a backbone; of a composed one, a reference to each half."""
    where, options = "adapter_config.json, backbone, options", section["options"]
    if section["class"] != VisionLanguage.__name__:
        _check(options, OPTIONS if options else {}, where)
        return
    _check(options, dict.fromkeys(HALVES, dict), where)
    for half in HALVES:
        _check(options[half], BACKBONE_FIELDS, f"{where}, {half}")
        _check_options(options[half])


def _check_class(backbone: nn.Module, section: dict[str, Any]) -> None:
    if type(backbone).__name__ != section["class"]:
        raise AdapterError(
            f"this adapter is for a {section['class']} and the given backbone is a {type(backbone).__name__}; "
            f"give it {section['name'] or 'the model it was trained on'}"
        )
    if isinstance(backbone, VisionLanguage):
        for half, part in backbone.parts.items():
            _check_class(part, section["options"][half])


def _read(backbone: nn.Module, config: dict[str, Any]) -> Anatomy:
    """The anatomy of a backbone that has as many blocks of the same width: cheap, and said before anything is placed."""
    try:
        found = hosts.read(backbone, config["head"]["modules"])
    except ValueError as error:
        raise AdapterError(f"adapter_config.json, head: {error}") from error
    if _stacks(found) != config["stacks"]:
        raise AdapterError(
            f"this adapter is for a {config['backbone']['class']} with {_sizes(config['stacks'])}; the given one has "
            f"{_sizes(_stacks(found))}"
        )
    return found


def _check(section: Any, fields: dict[str, Any], where: str) -> None:
    """Exactly these fields, each of its type."""
    storage.check_fields(section, fields, where)
    for name, kind in fields.items():
        value = section[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            found = getattr(kind, "__name__", str(kind))
            raise AdapterError(f"{where}: {name} must be {found}, found {value!r:.60}; correct the file")


def _check_size(
    anatomy: Anatomy, applied: list[methods.Method], config: dict[str, Any], tensors: dict[str, Tensor]
) -> None:
    """Not many more numbers asked for than the file holds, said before memory is taken; few are named tensor by tensor later."""
    head = (config["head"]["outputs"] or 0) * (anatomy.blocks()[0].sizes.width if anatomy.stacks else 1)
    asked = sum(m.parameters(anatomy) for m in applied if m.name != "peft") + head
    held = sum(t.numel() for t in tensors.values())
    if asked > held + _TOLERATED:
        raise AdapterError(
            f"adapter_config.json calls for at least {asked:,} trained numbers and the adapter's tensors hold {held:,}; "
            "the two files do not belong together: save again"
        )


def _check_fingerprint(adapted: AdaptedModule, config: dict[str, Any]) -> None:
    section = config["backbone"]
    for name, part in adapted.host.parts(adapted.backbone).items():
        reference, found = section["options"].get(name, section), adapted.fingerprints[name]
        if reference["fingerprint"] not in (None, found):
            raise AdapterError(
                f"it was trained on other weights than those of this {type(part).__name__} (fingerprint "
                f"{reference['fingerprint'][:12]}, found {str(found)[:12]}); load "
                f"{reference['name'] or 'the backbone it was trained on'} in {reference['dtype']}"
            )


def _outputs(adapted: AdaptedModule) -> int | None:
    """Number of outputs of the head, so that loading can build it; None where there is none, or several that differ."""
    said = adapted.host.outputs(adapted.backbone)
    found = {heads.outputs(head, said) for head in adapted.head_modules().values()}
    return found.pop() if len(found) == 1 else adapted.num_labels


def _stacks(anatomy: Anatomy) -> dict[str, Any]:
    return {n: {"blocks": len(b), "width": b[0].sizes.width} for n, b in anatomy.stacks.items()}


def _sizes(stacks: Any) -> str:
    if not isinstance(stacks, dict):
        return repr(stacks)[:80]
    return ", ".join(
        f"{s.get('blocks')} {n} blocks of width {s.get('width')}" for n, s in stacks.items() if isinstance(s, dict)
    )


def _backbone(section: dict[str, Any], head: dict[str, Any]) -> nn.Module:
    """The pre-trained model that a reference names, from the zoo."""
    if section["class"] == VisionLanguage.__name__:
        return VisionLanguage(**{half: _backbone(section["options"][half], {}) for half in HALVES})
    if not section["name"]:
        raise AdapterError(
            f"the folder does not say where its {section['class']} came from (it was not loaded by name); give backbone=..."
        )
    task = next((t for ending, t in TASKS.items() if section["class"].endswith(ending)), None)
    labels = head["outputs"] if task not in (None, "text-generation") and not head["built"] else None
    options = dict(section["options"])
    if section["dtype"] != "float32":
        options["dtype"] = section["dtype"]
    try:
        where = {"revision": section["revision"], **options}
        model: Any = zoo.load(section["name"], task=task, num_labels=labels, **where)
        known = (type(model).__name__, type(getattr(model, "base_model", model)).__name__)
        if section["library"] == "transformers" and section["class"] not in known:  # a part of what was published
            model = zoo.load(section["name"], kind=section["class"], **where)
    except (ValueError, TypeError, OSError) as error:
        raise AdapterError(
            f"its backbone {section['name']!r:.80} could not be loaded: {error}; give backbone=..."
        ) from error
    bare = getattr(model, "base_model", model)
    if type(model).__name__ == section["class"] or type(bare).__name__ != section["class"]:
        return model
    bare.name_or_path = model.name_or_path  # published with a head, adapted without
    return bare


def _image_size(adapted: AdaptedModule) -> dict[str, Any]:
    size = adapted.metadata.get("preprocessing", {}).get("size")
    return {} if size is None else {"image_size": size}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _local(folder: str | Path) -> Path:
    path = Path(folder)
    if path.exists() or isinstance(folder, Path) or str(folder).count("/") != 1 or str(folder).startswith(("/", ".")):
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    files = [storage.CONFIG, storage.TENSORS, storage.CARD]
    try:
        return Path(snapshot_download(str(folder), allow_patterns=files))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise AdapterError(
            f"there is no folder {folder}, and the hub did not give a repository of that name: {error}"
        ) from error
