"""The model card of an adapter: what was adapted, how, at what cost, with what result, for people and for the hub.

Names, labels and results come from data and from others: in the front matter YAML's own writer quotes them, in the text nothing of
them is read as Markdown or HTML.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

HALVES = {
    "VisionLanguage": ("vision", "language"),
    "ZeroShot": ("pair",),
    "Segmenter": ("backbone",),
}  # of composed models
PIPELINES = {  # what a task of ours is called by the hub; others have no name there
    "image-classification": "image-classification",
    "semantic-segmentation": "image-segmentation",
    "answer-classification": "visual-question-answering",
    "answer-generation": "visual-question-answering",
    "captioning": "image-to-text",
    "drawing": "text-to-image",
    "classification-by-words": "zero-shot-image-classification",
}
ASKED = {  # the function of gossamer.predict for a task, and what it takes behind image files
    "image-classification": ("predict", ""),
    "answer-classification": ("answer", ', "What is this?"'),
    "answer-generation": ("answer", ', "What is this?"'),
    "image-text-retrieval": ("rank", ', ["a photo of a cat", "a photo of a dog"]'),
    "captioning": ("caption", ""),
}
PICTURES = ("confusion.png", "curves.png")  # of a run, that a card shows: no image of the data is in them
COUNTED = {
    "trained_parameters",
    "all_parameters",
    "bare",
    "adapted",
    "finished",
    "training_flops",
    "full_training_flops",
}
_PUBLISHED = re.compile(r"[\w-][\w.-]*/[\w.-]+")  # how a repository of the hub is called
_MEANT = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$-])")


def text(config: dict[str, Any], call: str = "load", *, place: str = ".", pictures: Sequence[str] = ()) -> str:
    """The card as Markdown, from what adapter_config.json says; nothing that is not recorded there stands in it.

    Args:
        config: content of adapter_config.json.
        call: what of ours reads the folder.
        place: how a reader of the card names the folder: that in which it lies, or a repository of the hub.
        pictures: names of image files that lie beside the card.
    """
    metadata, backbone = config["metadata"], config["backbone"]
    halves = HALVES.get(backbone["class"])
    parts = [backbone] if halves is None else [backbone["options"][half] for half in halves]
    base = " + ".join(_named(part["name"]) or part["class"] for part in parts)
    methods = ", ".join(m["method"] for m in config["methods"])
    labels = [plain(label) for label in metadata.get("labels", [])]
    shown = ", ".join(labels[:20]) + (f", ... ({len(labels)} in all)" if len(labels) > 20 else "")
    lines = [f"# {plain(base)}, adapted by {plain(methods)}", ""]
    lines += [f"Task: {plain(metadata['task'])}.", ""] if "task" in metadata else []
    lines += [f"Labels: {shown}.", ""] if labels else []
    lines += ["```python", *_snippet(call, place, metadata.get("task"), [part["name"] for part in parts]), "```", ""]
    of_methods = [f"- {n}: {v}" for m in config["methods"] for n, v in _shown(m) if n != "method"]
    exports = [f"- {plain(name)}: {_exported(found)}" for name, found in metadata.get("exports", {}).items()]
    sections = {
        "Results": [f"- {n}: {v}" for n, v in _shown(metadata.get("results", {}))],
        "Over seeds": _compared(metadata["compared"]) if "compared" in metadata else [],
        "Pictures": [f"![{plain(Path(name).stem)}]({name})" for name in pictures],
        "Training": _trained(metadata["run"]) if "run" in metadata else [],
        "Settings": of_methods,
        "Cost": _cost(config["cost"]),
        "Exports": exports,
    }
    for heading, said in sections.items():
        lines += [f"## {heading}", "", *said, ""] if said else []
    return "\n".join(
        [front([part["name"] for part in parts], metadata.get("task"), metadata.get("license")), "", *lines]
    )


def _named(name: str | None) -> str | None:
    """A name as others may see it: of a folder of this machine, its last part."""
    return name if name is None or _PUBLISHED.fullmatch(name) else Path(name).name or name


def _snippet(call: str, place: str, task: Any, names: Sequence[str | None]) -> list[str]:
    """Python that loads the folder and, where the task is one of ours that reads image files, uses it."""
    first = ["import gossamer as gm"]
    if call != "load":
        return [*first, "", f'model = gm.{call}("{place}")']
    given = "" if None not in names else ", backbone"
    remark = "  # backbone: the model that it was trained on" if given else ""
    load = f'model = gm.load("{place}"{given}){remark}'
    if task not in ASKED:
        return [*first, "", load]
    function, asked = ASKED[task]
    return [
        *first,
        f"from gossamer.predict import {function}",
        "",
        load,
        f'for found in {function}(model, ["photo.jpg"]{asked}):',
        "    print(found)",
    ]


def front(names: list[str | None], task: Any = None, licence: Any = None) -> str:
    """What the hub reads of a card, between two lines of ---; backbones that are none of its repositories it is not told of."""
    matter: dict[str, Any] = {"library_name": "gossamer", "tags": ["gossamer", "parameter-efficient"]}
    if isinstance(licence, str):
        matter["license"] = licence
    if isinstance(task, str) and task in PIPELINES:
        matter["pipeline_tag"] = PIPELINES[task]
    published = [name for name in names if name and _PUBLISHED.fullmatch(name) and not Path(name).exists()]
    if published and len(published) == len(names):
        matter["base_model"] = published[0] if len(published) == 1 else published
    return f"---\n{yaml.dump(matter, Dumper=_OneLine, sort_keys=False, allow_unicode=True, width=10_000)}---"


class _OneLine(yaml.SafeDumper):
    """Writes text that has line breaks with escapes: one of its lines could be the --- that ends the front matter."""


def _written(dumper: _OneLine, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if value.isprintable() else '"')


_OneLine.add_representer(str, _written)


def plain(value: Any) -> str:
    """A value as one line of Markdown that shows it letter by letter."""
    line = " ".join(str(value).split())
    return _MEANT.sub(r"\\\1", line) if re.search(r"[^\w ,.:;/'\"=-]|^\W|(^|\W)_|_(\W|$)", line) else line


def _shown(values: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and values for people: numbers rounded and grouped, what is not set and what has parts left out."""
    return [
        (plain(n.replace("_", " ")), plain(_rounded(v)))
        for n, v in values.items()
        if v is not None and v != [] and not isinstance(v, dict)
    ]


def _rounded(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _cost(sheet: dict[str, Any]) -> list[str]:
    """The cost sheet in a few lines; of a model that could not be counted, why."""
    if not COUNTED.issubset(sheet):
        return [f"- {n}: {v}" for n, v in _shown(sheet)]
    trained, whole = sheet["trained_parameters"], sheet["all_parameters"]
    passes = {n: sheet[n]["counted"] / 1e9 for n in ("bare", "adapted", "finished")}
    return [
        f"- trained parameters: {trained:,} of {whole:,} ({100 * trained / whole:.3g} %)",
        f"- multiply-adds of one sample: {passes['finished']:.4g} G finished, {passes['adapted']:.4g} G in training, "
        f"{passes['bare']:.4g} G of the bare backbone",
        f"- a training step: {sheet['training_flops'] / 1e9:.4g} GFLOPs a sample, full fine-tuning "
        f"{sheet['full_training_flops'] / 1e9:.4g}",
    ]


def _trained(run: dict[str, Any]) -> list[str]:
    """What `gossamer.runs.recorded` told of a run."""
    items = ", ".join(f"{count:,} {split}" for split, count in run["items"].items())
    lines = [f"- data: {plain(run['data'])} ({plain(items)})", f"- seed: {run['seed']}"]
    for part in ("protocol", "training"):
        lines += [f"- {n}: {v}" for n, v in _shown(run[part])]
    return lines


def _compared(found: dict[str, Any]) -> list[str]:
    """What `gossamer compare` told of a method on a task: the mean of its seeds and their spread, and times that it measured."""
    seeds = ", ".join(map(str, found["seeds"]))
    of = f"seed {seeds}" if found["sd"] is None else f"mean and standard deviation of seeds {seeds}"
    spread = "" if found["sd"] is None else f" ± {found['sd']:.2%}"
    lines = [f"- {plain(found['split'])} accuracy: {found['mean']:.2%}{spread}, {of}"]
    if found["latency_ms"] is not None:
        machine = " on " + plain(found["processor"]) if found["processor"] else ""
        lines.append(
            f"- one sample: {found['latency_ms']:.3g} ms finished, {found['bare_latency_ms']:.3g} ms of the bare backbone{machine}"
        )
    return lines


def _exported(found: dict[str, Any]) -> str:
    """One exported file in words: how fast, how equal, and how accurate where it is not meant to be equal."""
    times, accuracy = found["latency"], found.get("accuracy")
    batches = [f"a batch of {t['batch']} in {t['exported']:.1f} ms, {t['torch']:.1f} ms in torch" for t in times]
    said = f"{', '.join(batches)}; logits differ by {found['difference']:.1g}"
    if accuracy:
        said += f"; {accuracy['split']} accuracy {accuracy['exported']:.2%}, as trained {accuracy['adapter']:.2%}"
    return said
