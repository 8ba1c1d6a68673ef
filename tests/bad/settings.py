"""Run files and comparison files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from gossamer import methods
from gossamer.comparison import plan
from gossamer.runs import run_file

from . import Case, Read

RUN: dict[str, Any] = {
    "model": {"name": "dinov2-small"},
    "data": {"name": "photos"},
    "methods": [{"method": "vpt"}],
    "output": "runs/a",
}
COMPARISON: dict[str, Any] = {
    "output": "out",
    "run": {"model": {"name": "dinov2-small"}},
    "seeds": [0, 1],
    "methods": {"probe": {"methods": [{"method": "linear_probe"}]}, "VPT": {"methods": [{"method": "vpt"}]}},
    "tasks": {"one": {"data": {"name": "digits"}}},
}
TEXT = yaml.safe_dump(RUN)
BOMB = "\n".join(f"a{i}: &a{i} " + ("[x, x]" if i == 0 else f"[*a{i - 1}, *a{i - 1}]") for i in range(40))


def changed(values: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    return plan.changed(values, name, value)


# ---- YAML, whatever it is to say ----

SPELLED: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "holds nothing"),
    "only a comment": ("# later\n", "holds nothing"),
    "null": ("null\n", "holds nothing"),
    "a list": ("- 1\n", "holds list"),
    "a number": ("5\n", "holds int"),
    "a word": ("hello\n", "holds str"),
    "an open bracket": ("model: {name: a\n", "line 2"),
    "an open quote": ("model: 'a\n", "is not YAML"),
    "a tab": ("model:\n\tname: a\n", "line 2"),
    "a stray bracket": ("model: ]\n", "line 1"),
    "bad indentation": ("model:\n  name: a\n data: b\n", "line 3"),
    "a name twice": (TEXT + "seed: 1\nseed: 2\n", "'seed'"),
    "a name twice inside": ("model: {name: a, name: b}\n", "'name'"),
    "a setting of a method twice": ("methods: [{method: vpt, prompts: 1, prompts: 2}]\n", "'prompts'"),
    "two documents": (f"{TEXT}---\n{TEXT}", "document"),
    "an anchor of itself": ("model: &m {name: *m}\n", "line 1"),
    "an anchor bomb": (BOMB, "100,000"),
    "deep": (f"model: {'[' * 100}{']' * 100}\n", "64 levels"),
    "very deep": (f"model: {'[' * 50_000}", "nest"),
    "an unknown anchor": ("model: *nowhere\n", "alias"),
    "code": ("model: !!python/object/apply:os.system ['false']\n", "constructor"),
    "an unknown tag": ("model: !model {name: a}\n", "constructor"),
    "a list as a name": ("? [1, 2]\n: 3\n", "key"),
    "a number as a name": ("5: 3\n", "5"),
    "null as a name": ("null: 3\n", "None"),
    "a number without end": (f"seed: {'9' * 9999}\n", "number"),
    "a control character": ("model: \x00\n", "character"),
    "bytes": (bytes(range(256)), "UTF-8"),
    "Latin-1": ("output: \xe9\n".encode("latin-1"), "UTF-8"),
    "UTF-16": (TEXT.encode("utf-16"), "UTF-8"),
    "too large": ("#" * (2**20 + 1), "larger than"),
}
HANDLED: dict[str, bytes] = {
    "a mark of the byte order": b"\xef\xbb\xbf" + TEXT.encode(),
    "lines of Windows": TEXT.replace("\n", "\r\n").encode(),
    "an end of the document": TEXT.encode() + b"...\n",
    "an anchor": TEXT.replace("name: photos", "name: &n photos").encode() + b"texts: {prompt: *n}\n",
    "a rate in short": TEXT.encode() + b"training: {lr: 1e-3}\n",
}


def written(content: str | bytes, read: Callable[[str], Any]) -> Read:
    def made(folder: Path) -> Any:
        file = folder / "asked.yaml"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return read(str(file))

    return made


def run_of(file: str) -> Any:
    run, _ = run_file.parse([file])
    return [methods.from_dict(values) for values in run.methods]


def cells_of(file: str) -> Any:
    comparison = plan.read(file)
    return plan.candidates(comparison), plan.cells(comparison, {})


def spelled() -> Iterator[Case]:
    for kind, read in (("run file", run_of), ("comparison file", cells_of)):
        for name, (content, message) in SPELLED.items():
            yield f"{kind}, {name}", written(content, read), f"asked.yaml|{message}"
    for name, content in HANDLED.items():
        yield f"run file, {name}", written(content, run_of), None


# ---- run files: values of the wrong kind ----

WRONG: dict[str, tuple[list[str], list[Any]]] = {
    "a whole number": (
        [
            "seed",
            "training.epochs",
            "training.batch",
            "training.workers",
            "data.limit",
            "images.size",
            "texts.tokens",
            "texts.negatives",
            "search.epochs",
            "search.checkpoint",
            "search.reward_batch",
        ],
        ["many", 1.5, [1], {"a": 1}, True, -1, 10**30],
    ),
    "a number": (
        [
            "training.lr",
            "training.head_lr",
            "training.weight_decay",
            "training.clip",
            "data.validation",
            "search.hold_out",
            "search.budget",
            "search.saving",
        ],
        ["fast", [1e-3], {"a": 1}, -1.0, float("nan"), float("inf")],
    ),
    "a text": (["model.name", "data.name", "output"], [5, [], {"a": 1}, "", " "]),
    "yes or no": (["training.warm_start", "training.bf16", "data.test", "search.dropout"], ["perhaps", 3, []]),
    "one of some": (
        [
            "model.head",
            "images.resize",
            "texts.answers",
            "data.train",
            "training.optimizer",
            "training.schedule",
            "training.keep",
            "training.attention",
            "search.cost",
            "search.reward_data",
        ],
        ["other", 3, []],
    ),
    "not null": (
        [
            "seed",
            "model",
            "model.name",
            "data",
            "methods",
            "output",
            "images",
            "training",
            "training.epochs",
            "texts",
            "search",
            "search.rules",
        ],
        [None],
    ),
    "a section": (["training", "images", "texts", "search", "condense"], ["run.yaml", 3, [1], True]),
    "a section or its name": (["model", "data"], ["", " ", 3, [1], True]),
    "three numbers": (["images.mean", "images.std"], [[1], [0.1, 0.2], "grey", [1, 2, "x"], [0.5, 0.5, float("inf")]]),
    "above zero": (["images.std"], [[0.5, 0.0, 0.5], [-1, 1, 1]]),
    "a list": (["methods", "images.augment", "training.report_to"], ["vpt", {"method": "vpt"}, 3]),
    "methods": (["methods"], [[], [None], ["vpt"], [[]]]),
    "an augmentation": (["images.augment"], [["mixup"], ["horizontal-flip", "horizontal-flip"], [3]]),
    "a known name": (["sede", "model.nme", "training.epoch", "data.limt", "config", "resume", "model.name.first"], [3]),
    "a home folder": (["output"], ["~nobody-at-all/x"]),
}
METHODS = {
    "no name": {},
    "an unknown name": {"method": "vtp"},
    "a list": {"method": ["vpt"]},
    "an unknown setting": {"method": "vpt", "promts": 3},
    "a word": {"method": "vpt", "prompts": "many"},
    "too few": {"method": "vpt", "prompts": -1},
    "nan": {"method": "adapter", "scale": float("nan")},
    "yes for a number": {"method": "vpt", "prompts": True},
    "null": {"method": "vpt", "prompts": None},
    "a part": {"method": "vpt", "blocks": "all"},
    "peft without type": {"method": "peft"},
    "peft of an unknown type": {"method": "peft", "peft_type": "LORE"},
    "peft with an unknown setting": {"method": "peft", "peft_type": "LORA", "rr": 8},
}


def values() -> Iterator[Case]:
    for kind, (names, bad) in WRONG.items():
        for name in names:
            for value in bad:
                shown = f"run file, {name} should be {kind}: {value!r:.30}"
                try:
                    text = yaml.safe_dump(changed(RUN, name, value))
                except ValueError:  # inside a text there is nothing to change
                    text = yaml.safe_dump({**RUN, "model": {"name": {"first": value}}})
                yield shown, written(text, run_of), name.split(".")[-1] if kind != "a home folder" else "~nobody"
    for name, value in METHODS.items():
        yield (
            f"run file, a method: {name}",
            written(yaml.safe_dump({**RUN, "methods": [value]}), run_of),
            "method|vpt|adapter|peft",
        )


# ---- comparison files ----

COMPARED: dict[str, tuple[str, Any, str]] = {
    "no methods": ("methods", {}, "methods"),
    "methods in a list": ("methods", [{"methods": []}], "methods"),
    "a method that is a word": ("methods", {"probe": "linear_probe"}, "methods|probe"),
    "a method that is null": ("methods", {"probe": None}, "methods|probe"),
    "a method of an unknown name": ("methods.bad", {"methods": [{"method": "vtp"}]}, "'bad'"),
    "a method without methods": ("methods.bad", {}, "'bad'"),
    "a method with an unknown section": (
        "methods.bad",
        {"trainin": {"lr": 1}, "methods": [{"method": "vpt"}]},
        "'bad'",
    ),
    "a method with a bad value": ("methods.bad", {"training": {"lr": "x"}, "methods": [{"method": "vpt"}]}, "'bad'"),
    "a method with a seed": ("methods.bad", {"seed": 3, "methods": [{"method": "vpt"}]}, "'bad'.*seed"),
    "a method with an output": ("methods.bad", {"output": "x", "methods": [{"method": "vpt"}]}, "'bad'.*output"),
    "names with one folder": ("methods.vpt", {"methods": [{"method": "vpt"}]}, "'VPT' and 'vpt'"),
    "a grid that is a list": ("methods.bad", {"grid": [1], "methods": [{"method": "vpt"}]}, "'bad'"),
    "a grid of one value": ("methods.bad", {"grid": {"training.lr": 3}, "methods": [{"method": "vpt"}]}, "'bad'"),
    "a grid without values": ("methods.bad", {"grid": {"training.lr": []}, "methods": [{"method": "vpt"}]}, "'bad'"),
    "a grid of an unknown setting": (
        "methods.bad",
        {"grid": {"training.rl": [1]}, "methods": [{"method": "vpt"}]},
        "'bad'.*rl",
    ),
    "a grid of a method that is not there": (
        "methods.bad",
        {"grid": {"methods.3.prompts": [1]}, "methods": [{"method": "vpt"}]},
        "'bad'",
    ),
    "a grid inside a number": (
        "methods.bad",
        {"grid": {"training.lr.x": [1]}, "training": {"lr": 1}, "methods": [{"method": "vpt"}]},
        "'bad'",
    ),
    "a grid without end": (
        "methods.bad",
        {
            "grid": {f"training.{n}": list(range(1, 99)) for n in ("lr", "epochs", "batch")},
            "methods": [{"method": "vpt"}],
        },
        "'bad'.*10,000",
    ),
    "no tasks": ("tasks", {}, "tasks"),
    "tasks in a list": ("tasks", ["digits"], "tasks"),
    "a task with an unknown set": ("tasks", {"one": {"date": {"name": "digits"}}}, "'one'.*date"),
    "a task without data": ("tasks", {"one": {}}, "'one'.*data.name"),
    "no seeds": ("seeds", [], "seeds"),
    "a seed twice": ("seeds", [1, 1], "seeds"),
    "a seed below 0": ("seeds", [-1], "seed"),
    "seeds that are words": ("seeds", ["a"], "seeds"),
    "seeds that are null": ("seeds", None, "seeds"),
    "no output": ("output", None, "output"),
    "an empty output": ("output", "", "output"),
    "an output that is a number": ("output", 5, "output"),
    "an unknown baseline": ("baseline", "prob", "'prob'.*did you mean 'probe'"),
    "a selection that is a number": ("selection", 3, "selection"),
    "a selection without seeds": ("selection", {"seeds": []}, "selection.seeds"),
    "an unknown part of the selection": ("selection", {"seed": 3}, "selection.*'seed'"),
    "an unknown setting": ("metods", {}, "'metods'.*did you mean 'methods'"),
    "a run that is a list": ("run", [], "run"),
    "a run that is null": ("run", None, "run"),
    "a run with an unknown part": ("run", {"modell": {"name": "a"}}, "'modell'"),
}


def comparisons() -> Iterator[Case]:
    for name, (setting, value, message) in COMPARED.items():
        yield (
            f"comparison file, {name}",
            written(yaml.safe_dump(changed(COMPARISON, setting, value)), cells_of),
            message,
        )
    yield "comparison file, as it should be", written(yaml.safe_dump(COMPARISON), cells_of), None
