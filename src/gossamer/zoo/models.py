"""Names -> pre-trained models, with every weight accounted for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.errors import MissingPackage, UserError
from gossamer.quiet import quiet
from gossamer.zoo import denoisers
from gossamer.zoo.sources import config as config_of
from gossamer.zoo.sources import read_by_library, resolve

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from gossamer.data.preprocess import Preprocessing

TASKS = {
    "image-classification": "AutoModelForImageClassification",
    "text-classification": "AutoModelForSequenceClassification",
    "text-generation": "AutoModelForCausalLM",
    "visual-question-answering": "AutoModelForVisualQuestionAnswering",
    "two-image-classification": "AutoModelForTwoImages",
    "image-text-retrieval": "AutoModelForRetrieval",
    "semantic-segmentation": "AutoModelForSemanticSegmentation",
}
"""Tasks and the class of transformers, or ours, that puts the head on."""

HEADS = ("classifier.", "decode_head.", "auxiliary_head.")
_REFUSED = ("trust_remote_code", "use_safetensors", "output_loading_info", "ignore_mismatched_sizes", "config")


def load(
    name: str | os.PathLike[str],
    *,
    task: str | None = None,
    num_labels: int | None = None,
    revision: str | None = None,
    kind: str | None = None,
    **options: Any,
) -> PreTrainedModel | nn.Module:
    """The pre-trained model `name` (see `resolve`), in evaluation mode, on the CPU.

    `task=None` gives the model as it was published (`dinov2-small` is a Dinov2Model without a head, `smollm2-135m` a
    LlamaForCausalLM); a task of `TASKS` gives it the head of that task, new and random where the published model has
    none or has another number of labels. `num_labels` needs a task with labels. A model of timm or diffusers comes as their
    own class. `kind` names another class of transformers to load it as: a part (`CLIPVisionModel` of a CLIP), or the bare model of
    a published one with a head. `model.name_or_path` is `name`, so that loading it again gives the same backbone. `options` go to
    `from_pretrained` (`attn_implementation`, `dtype`, ...) or to `timm.create_model` (`img_size`, ...).

    Every weight must be accounted for: one that is missing, left over or of another shape outside the head is a
    ValueError. Only safetensors are read; no code of the model's folder is run.
    """
    _check_request(task, num_labels, options)
    folder = resolve(name, revision)
    if not any(folder.glob("*.safetensors")):
        found = ", ".join(
            sorted(path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pth", ".h5"})
        )
        raise UserError(
            f"{name} has no .safetensors file ({found or 'no weights at all'}); pickled weights are never read"
        )
    config = config_of(folder / "config.json")
    if kind is not None:
        config = {**config, "architectures": [_checked(kind, task, config)]}
    if "_class_name" in config:
        if task is not None:
            raise UserError(f"{config['_class_name']} predicts noise and has no task {task!r}: leave task out")
        return denoisers.load(folder, os.fspath(name), config["_class_name"], options)
    load_one = _load_timm if _is_timm(config) else _load_transformers
    model: Any = load_one(folder, config, task, num_labels, options).eval()
    model.name_or_path = os.fspath(name)
    if hasattr(model, "config"):
        model.config._name_or_path = os.fspath(name)
    return model


def tokenizer(name: str | os.PathLike[str], revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of the model `name`; ValueError for a model that has none."""
    from transformers import AutoTokenizer

    folder = resolve(name, revision)
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt")):
        raise UserError(
            f"{name} has no tokenizer: its folder holds no tokenizer.json, tokenizer_config.json, vocab.txt"
        )
    with quiet(), read_by_library(f"{name}: its tokenizer"):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def preprocessing(name: str | os.PathLike[str], size: int | None = None, revision: str | None = None) -> Preprocessing:
    """How images must be prepared for the model `name`: as published, at `size` pixels if that is given.

    ValueError for a model that does not say how (one that reads no images, for instance).
    """
    from gossamer.data.preprocess import Preprocessing

    folder = resolve(name, revision)
    config = config_of(folder / "config.json")
    if _is_timm(config):
        return Preprocessing.from_timm(config.get("pretrained_cfg", config), size=size)
    processor = folder / "preprocessor_config.json"
    if not processor.is_file():
        raise UserError(f"{name} does not say how to prepare images: its folder has no preprocessor_config.json")
    return Preprocessing.from_processor(config_of(processor), size=size)


def _check_request(task: str | None, num_labels: int | None, options: dict[str, Any]) -> None:
    if task is not None and task not in TASKS:
        raise UserError(f"unknown task {task!r}; known: {', '.join(TASKS)}")
    if num_labels is not None and task in (None, "text-generation"):
        raise UserError(f"num_labels={num_labels} needs a task with labels, such as image-classification; got {task}")
    if num_labels is not None and num_labels < 1:
        raise UserError(f"num_labels must be 1 or more, got {num_labels}")
    if refused := [option for option in _REFUSED if option in options]:
        raise UserError(f"{', '.join(refused)} cannot be chosen: the zoo sets it to what is safe")


def _checked(kind: str, task: str | None, config: dict[str, Any]) -> str:
    """The name of a model class of transformers, if it is one and nothing else was asked for."""
    import transformers

    found = getattr(transformers, kind, None)
    if task is not None or _is_timm(config):
        raise UserError(
            f"kind={kind!r} chooses a class of transformers; it goes with neither a task nor a model of timm"
        )
    if not isinstance(found, type) or not issubclass(found, transformers.PreTrainedModel):
        raise UserError(f"kind={kind!r} is no model class of transformers {transformers.__version__}")
    return kind


def _is_timm(config: dict[str, Any]) -> bool:
    return "architecture" in config and "model_type" not in config


def _load_transformers(
    folder: Path, config: dict[str, Any], task: str | None, num_labels: int | None, options: dict[str, Any]
) -> PreTrainedModel:
    """A model of transformers from its folder, its loading report checked."""
    import transformers

    from gossamer import models
    from gossamer.models import auto

    models.register()
    if "auto_map" in config and config.get("model_type") not in transformers.CONFIG_MAPPING:
        raise UserError(
            f"{folder.name}: {config.get('model_type')} is code of its own in that folder, which is never run"
        )
    if task is not None:
        kind = models.find(TASKS[task])
        with quiet(), read_by_library(folder):
            family = type(transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False))
        if family not in kind._model_mapping:
            raise UserError(
                f"transformers has no model of the family {config.get('model_type')} for {task}; load it without a task"
            )
    else:
        published = (config.get("architectures") or [""])[0]
        kind = models.find(published) or transformers.AutoModel
    labels = {} if num_labels is None else {"num_labels": num_labels, "ignore_mismatched_sizes": True}
    vilt = config.get("model_type") == "vilt"
    if vilt and task == "two-image-classification":
        labels["num_images"] = 2
    with quiet(), read_by_library(folder):
        model, report = kind.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **labels,
            **options,
        )
    _check_report(model, report, new_head=task is not None)
    if task == "image-text-retrieval" and "rank_output.weight" in report["missing_keys"]:
        model.start_rank_head()
    if vilt:
        from gossamer.models.vilt import hold_order

        hold_order(model)
    auto.tell_images_apart(model)
    return model


def _check_report(model: PreTrainedModel, report: dict[str, Any], *, new_head: bool) -> None:
    """Refuse weights that are missing, left over or of another shape, except those of a new head.

    The head is what lies outside the base model; the classes that hold no base model as one part (CLIP, SigLIP, UperNet) have the
    names of `HEADS` for it. What is left over may also be a part that this model has not at all (a former head, a pooler, a
    decoder): its first name is none of the base model's.
    """
    base, prefix = model.base_model, model.base_model_prefix + "."

    def of_base(key: str) -> bool:
        return not key.startswith(HEADS) if base is model else key.startswith(prefix)

    def of_a_part(key: str) -> bool:
        return getattr(base, key.removeprefix(prefix).split(".")[0], None) is not None

    mismatched = [entry if isinstance(entry, str) else entry[0] for entry in report["mismatched_keys"]]
    faults = {
        "missing": [key for key in report["missing_keys"] if not new_head or of_base(key)],
        "left over": [key for key in report["unexpected_keys"] if of_a_part(key)],
        "of another shape": [key for key in mismatched if not new_head or of_base(key)],
    }
    found = [f"{what}: {', '.join(sorted(keys)[:5])} ({len(keys)} in all)" for what, keys in faults.items() if keys]
    if found:
        raise UserError(f"the stored weights do not fit {type(model).__name__}; {'; '.join(found)}")


def _load_timm(
    folder: Path, config: dict[str, Any], task: str | None, num_labels: int | None, options: dict[str, Any]
) -> nn.Module:
    """A model of timm from its folder; timm itself loads strictly when the number of classes is the published one."""
    if task not in (None, "image-classification"):
        raise UserError(f"models of timm classify images; {config['architecture']} has no task {task!r}")
    try:
        import timm
    except ImportError as error:
        raise MissingPackage(f"{config['architecture']} is a model of timm: pip install 'gossamer[timm]'") from error
    with read_by_library(folder):
        model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True, **options)
    if num_labels is not None and num_labels != model.num_classes:
        model.reset_classifier(num_labels)
    return model
