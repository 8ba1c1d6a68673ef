"""The model card of an adapter: what was adapted, how, at what cost, with what result, for people and for the hub.

Names, labels and results come from data and from others: in the front matter YAML's own writer quotes them, in the text nothing of
them is read as Markdown or HTML.
"""

from __future__ import annotations

import re
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
_PUBLISHED = re.compile(r"[\w-][\w.-]*/[\w.-]+")  # how a repository of the hub is called
_MEANT = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$-])")


def text(config: dict[str, Any], call: str = "load") -> str:
    """The card as Markdown, from what adapter_config.json says; `call` is what of ours reads the folder."""
    metadata, backbone = config["metadata"], config["backbone"]
    halves = HALVES.get(backbone["class"])
    parts = [backbone] if halves is None else [backbone["options"][half] for half in halves]
    base = " + ".join(part["name"] or part["class"] for part in parts)
    methods = ", ".join(m["method"] for m in config["methods"])
    lines = [f"# {plain(base)}, adapted by {plain(methods)}", ""]
    lines += [f"Task: {plain(metadata['task'])}.", ""] if "task" in metadata else []
    labels = [plain(label) for label in metadata.get("labels", [])]
    shown = ", ".join(labels[:20]) + (f", ... ({len(labels)} in all)" if len(labels) > 20 else "")
    lines += [f"Labels: {shown}.", ""] if labels else []
    lines += ["```python", "import gossamer as gm", "", f'model = gm.{call}("this folder")', "```", "", "## Cost", ""]
    lines += _listed(config["cost"])
    if metadata.get("results"):
        lines += ["", "## Results", "", *_listed(metadata["results"])]
    lines += ["", "## Exports", ""] if metadata.get("exports") else []
    lines += [f"- {plain(name)}: {_exported(found)}" for name, found in metadata.get("exports", {}).items()]
    settings = [
        f"- {plain(k)}: {plain(v)}" for m in config["methods"] for k, v in m.items() if k != "method" and v is not None
    ]
    return "\n".join(
        [
            front([part["name"] for part in parts], metadata.get("task")),
            "",
            *lines,
            "",
            "## Settings",
            "",
            *settings,
            "",
        ]
    )


def front(names: list[str | None], task: Any = None) -> str:
    """What the hub reads of a card, between two lines of ---; backbones that are none of its repositories it is not told of."""
    matter: dict[str, Any] = {"library_name": "gossamer", "tags": ["gossamer", "parameter-efficient"]}
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


def _listed(values: dict[str, Any]) -> list[str]:
    rounded = {n: round(v, 4) if isinstance(v, float) else v for n, v in values.items()}
    return [f"- {plain(n.replace('_', ' '))}: {plain(v)}" for n, v in rounded.items() if not isinstance(v, dict | list)]


def _exported(found: dict[str, Any]) -> str:
    """One exported file in words: how fast, how equal, and how accurate where it is not meant to be equal."""
    times, accuracy = found["latency"], found.get("accuracy")
    batches = [f"a batch of {t['batch']} in {t['exported']:.1f} ms, {t['torch']:.1f} ms in torch" for t in times]
    said = f"{', '.join(batches)}; logits differ by {found['difference']:.1g}"
    if accuracy:
        said += f"; {accuracy['split']} accuracy {accuracy['exported']:.2%}, as trained {accuracy['adapter']:.2%}"
    return said
