"""The report of a comparison as one HTML page that needs nothing else. Its numbers follow from the rows, which it carries."""

from __future__ import annotations

import importlib.util
import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from gossamer.comparison import charts
from gossamer.comparison.statistics import (
    CONFIDENCE,
    Difference,
    Spread,
    frontier,
    over_pairs,
    over_seeds,
    over_task_means,
    over_tasks,
    paired,
)
from gossamer.comparison.timing import REPEATS, STEP_REPEATS
from gossamer.cost.sheet import brief
from gossamer.methods import METHODS
from gossamer.methods.base import Method
from gossamer.runs.folder import flat

COSTS = {
    "trainable_parameters": ("trained parameters", "trained parameters"),
    "gmacs": ("compute", "GMACs a sample, finished model"),
    "latency_ratio": ("measured latency", "latency, \u00d7 the bare backbone\u2019s"),
}
"""Cost against which accuracy is drawn -> its name, and title of the axis."""
OTHER_COSTS = (
    "bare_gmacs", "training_gmacs", "latency_ms", "bare_latency_ms", "seconds", "answer_ms", "answer_ratio", "step_ms",
    "step_ratio", "step_mib",
)  # fmt: skip
COLOURS, DASHES = 7, 3  # of methods and of their curves, in page.css; colours stay apart without red and green
SHAPES = (
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",  # a disc
    "M-4.5-4.5h9v9h-9z",
    "M0-5.8L5.4 4.4H-5.4z",
    "M0-6.2L6.2 0L0 6.2L-6.2 0z",
    "M0 5.8L5.4-4.4H-5.4z",
    "M-2-5.5h4v3.5h3.5v4h-3.5v3.5h-4v-3.5h-3.5v-4h3.5z",
    "M0-6.2L1.8-1.8L6.2 0L1.8 1.8L0 6.2L-1.8 1.8L-6.2 0L-1.8-1.8z",
    "M-5.5-2.4h11v4.8h-11z",
)
"""Marks of methods, SVG paths around 0: eight methods differ in shape, and with the colours fifty-six are told apart."""
WIDE = 8.0  # ratio of the largest to the smallest cost from which on the axis is logarithmic
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A method in the overview: means over tasks and seeds (costs over all its cells)."""

    method: str
    accuracy: Spread | None
    balanced_accuracy: Spread | None
    costs: dict[str, float | None]
    efficient: bool


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A method against the baseline: over pairs of task and seed, over tasks, and on each task."""

    method: str
    pairs: Difference | None
    tasks: Difference | None
    by_task: dict[str, Difference | None]


def available() -> bool:
    """Whether pages can be made."""
    return importlib.util.find_spec("scipy") is not None


def render(rows: Rows, *, baseline: str) -> str:
    """The page for the rows of `gossamer.comparison.sweep.compare`, with differences against the method `baseline`."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {}  # in the order of the columns
    environment.filters |= {f.__name__: f for f in (percent, points, number, giga, shown, count_of)}
    size = {name.lower(): getattr(charts, name) for name in ("WIDTH", "LEFT", "RIGHT", "TOP", "BOTTOM", "NAMES")}
    files = {"stylesheet": _file("page.css"), "script": _file("page.js")}
    environment.globals |= {"next": next, "size": size, "shapes": SHAPES, **files}
    return environment.from_string(_file("page.html")).render(**content(rows, baseline), ids=itertools.count())


def content(rows: Rows, baseline: str) -> dict[str, Any]:
    """Everything that the template shows."""
    done = [row for row in rows if not row["error"]]
    methods, tasks = _names(rows, "method"), _names(rows, "task")
    lines = overview(done, methods)
    gaps = [gap(done, method, baseline, tasks) for method in methods if method != baseline]
    by_prompts = {task: of for task in tasks if (of := accuracy_by_prompts(done, task))}
    kinds = list(dict.fromkeys(kind for of in by_prompts.values() for kind in of))
    return {
        "rows": rows,
        "done": done,
        "failed": [row for row in rows if row["error"]],
        "methods": methods,
        "tasks": tasks,
        "seeds": sorted({row["seed"] for row in rows}),
        "baseline": baseline,
        "lines": lines,
        "known": {name for line in lines for name, value in line.costs.items() if value is not None},
        "balanced": any(line.balanced_accuracy for line in lines),
        "rates": {
            (m, t): rates([r for r in done if (r["method"], r["task"]) == (m, t)]) for m in methods for t in tasks
        },
        "gaps": gaps,
        "summary": _summary(lines, gaps),
        "style": {
            name: (i % COLOURS, i % len(SHAPES), i // COLOURS % DASHES) for i, name in enumerate((*methods, *kinds))
        },
        "by_task": {(m, t): over_seeds(done, m, t) for m in methods for t in tasks},
        "best": {task: _best(done, methods, task) for task in tasks},
        "pareto": _scatters(
            {line.method: (line.costs, line.accuracy.mean) for line in lines if line.accuracy}, "Accuracy"
        ),
        "pareto_by_task": {task: _scatters(_on_task(done, methods, task), f"{task}: accuracy") for task in tasks},
        "curves": _curves(done, methods, tasks),
        "dots": _dots(done, methods, tasks),
        "kinds": kinds,
        "prompts": _prompts(by_prompts),
        "forest": _forest(gaps, baseline),
        "common": _common(done),
        "by_method": _differing(done, "method", "task"),
        "of_task": _differing(done, "task", "method"),
        "images": {task: next((r["images"] for r in done if r["task"] == task), None) for task in tasks},
        "selections": _selections(rows),
        "splits": sorted({row["split"] for row in done}),
        "repeats": (REPEATS, STEP_REPEATS),
        "confidence": CONFIDENCE,
    }


def overview(rows: Rows, methods: Sequence[str]) -> list[Line]:
    """One line a method, the most accurate first, those without a mean last."""
    found = {method: over_tasks(rows, method) for method in methods}
    costs = {method: mean_costs([r for r in rows if r["method"] == method]) for method in methods}
    efficient = frontier({m: (costs[m]["gmacs"], s.mean) for m, s in found.items() if s})  # type: ignore[misc]
    lines = [
        Line(
            method=method,
            accuracy=found[method],
            balanced_accuracy=over_tasks(rows, method, "balanced_accuracy"),
            costs=costs[method],
            efficient=method in efficient,
        )
        for method in methods
    ]
    return sorted(lines, key=lambda line: -(line.accuracy.mean if line.accuracy else -1))


def mean_costs(rows: Rows) -> dict[str, float | None]:
    """Means of the costs over rows, of those that have them; `gmacs_ratio` is that of the mean GMACs to the bare backbone's."""
    means = {name: _mean([row[name] for row in rows if row[name] is not None]) for name in (*COSTS, *OTHER_COSTS)}
    known = means["gmacs"] is not None and means["bare_gmacs"] is not None
    return means | {"gmacs_ratio": means["gmacs"] / means["bare_gmacs"] if known else None}  # type: ignore[operator]


def gap(rows: Rows, method: str, baseline: str, tasks: Sequence[str]) -> Gap:
    """How far a method is from the baseline."""
    differences = paired(rows, method, baseline)
    return Gap(
        method=method,
        pairs=over_pairs(differences),
        tasks=over_task_means(differences),
        by_task={task: over_pairs({k: v for k, v in differences.items() if k[0] == task}) for task in tasks},
    )


def rates(rows: Rows) -> list[str]:
    """Learning rates of the methods in rows: those of the run file, else the usual ones; none where nothing was tuned."""
    found: dict[str, None] = {}
    for row in (row for row in rows if row["training_gmacs"] is not None):
        given = row["protocol"]["training"]["lr"]
        usual = [METHODS.get(of["method"], Method).learning_rate for of in row["protocol"]["methods"]]
        found |= dict.fromkeys([f"{given:g}"] if given is not None else [f"{rate:g}" for rate in usual])
    return list(found)


def accuracy_by_prompts(rows: Rows, task: str) -> dict[str, list[list[tuple[float, float]]]]:
    """Kind of prompts -> for each seed (number of prompts, accuracy in per cent), for kinds with several numbers on a task.

    A kind is a list of methods whose settings are alike but for one number of prompts; those that agree in it are averaged.
    """
    found: dict[str, dict[int, dict[int, list[float]]]] = {}
    for row in (row for row in rows if row["task"] == task):
        counts = [of["prompts"] for of in row["protocol"]["methods"] if isinstance(of.get("prompts"), int)]
        if len(counts) == 1:
            kind = " + ".join(
                brief(of | ({"prompts": "p"} if "prompts" in of else {})) for of in row["protocol"]["methods"]
            )
            found.setdefault(kind, {}).setdefault(row["seed"], {}).setdefault(counts[0], []).append(row["accuracy"])
    return {
        kind: [sorted((p, 100 * statistics.fmean(of)) for p, of in seed.items()) for seed in seeds.values()]
        for kind, seeds in found.items()
        if len({p for seed in seeds.values() for p in seed}) > 1
    }


def percent(share: float | None) -> str:
    """A share as per cent with one decimal."""
    return "\u2013" if share is None else f"{100 * share:.1f}"


def points(share: float | None) -> str:
    """A difference of shares in percentage points with its sign."""
    if share is None:
        return "\u2013"
    text = f"{100 * share:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\u2212")


def number(value: float | None, digits: int = 0) -> str:
    """A number with thousands set apart."""
    return "\u2013" if value is None else f"{value:,.{digits}f}"


def giga(value: float | None) -> str:
    """GMACs with three decimals, small ones with three figures."""
    return "\u2013" if value is None else f"{value:,.3f}" if value >= 0.1 else f"{value:.3g}"


def shown(value: Any) -> str:
    """A setting as it would stand in a run file."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict) and "method" in value:
        return brief(value)
    if isinstance(value, dict):
        return ", ".join(f"{k} {shown(v)}" for k, v in value.items() if v is not None)
    return ", ".join(map(shown, value)) or "none" if isinstance(value, list | tuple) else f"{value}"


def count_of(count: int, noun: str) -> str:
    """A count with its noun: 1 seed, 3 seeds."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _file(name: str) -> str:
    return resources.files("gossamer.comparison").joinpath(name).read_text(encoding="utf-8")


def _names(rows: Rows, kind: str) -> list[str]:
    return list(dict.fromkeys(row[kind] for row in rows))


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _summary(lines: Sequence[Line], gaps: Sequence[Gap]) -> dict[str, Any] | None:
    """The most accurate method and its gap to the baseline, for the opening sentence; None where no method has a mean."""
    if not lines or lines[0].accuracy is None:
        return None
    best = lines[0]
    return {"best": best, "gap": next((g for g in gaps if g.method == best.method and g.pairs), None)}


def _best(rows: Rows, methods: Sequence[str], task: str) -> float | None:
    return max((s.mean for m in methods if (s := over_seeds(rows, m, task))), default=None)


def _on_task(rows: Rows, methods: Sequence[str], task: str) -> dict[str, tuple[dict[str, float | None], float]]:
    of = {m: [r for r in rows if (r["method"], r["task"]) == (m, task)] for m in methods}
    return {m: (mean_costs(found), statistics.fmean(r["accuracy"] for r in found)) for m, found in of.items() if found}


def _scatters(of: Mapping[str, tuple[Mapping[str, float | None], float]], accuracy_of: str) -> list[charts.Chart]:
    """Accuracy against each cost; titles begin with `accuracy_of`."""
    if not of:
        return []
    found = []
    for cost, (short, title) in COSTS.items():
        at = {name: (float(costs[cost] or 0), 100 * accuracy) for name, (costs, accuracy) in of.items()}
        values = [x for x, _ in at.values()]
        found.append(
            charts.scatter(
                at,
                frontier(at),
                title=f"{accuracy_of} against {short}",
                x_title=title,
                y_title="accuracy, %",
                log=max(values) > WIDE * min(values),
            )
        )
    return found


def _curves(rows: Rows, methods: Sequence[str], tasks: Sequence[str]) -> list[charts.Chart]:
    """Validation accuracy and training loss over the epochs, for the tasks that have them."""
    found = []
    for task in tasks:
        for key, factor, title in (("val_accuracy", 100, "validation accuracy, %"), ("loss", 1, "training loss")):
            lines = {
                method: [
                    [(record["epoch"], factor * record[key]) for record in row["curve"] if key in record]
                    for row in rows
                    if (row["method"], row["task"]) == (method, task)
                ]
                for method in methods
            }
            chart = charts.curves(lines, title=f"{task}: {title.partition(',')[0]}", x_title="epoch", y_title=title)
            found += [] if chart is None else [chart]
    return found


def _prompts(of: Mapping[str, Mapping[str, list[list[tuple[float, float]]]]]) -> list[charts.Chart]:
    """Accuracy over the number of prompts, a picture a task."""
    drawn = [
        charts.curves(kinds, title=f"{task}: number of prompts", x_title="prompts", y_title="accuracy, %", dotted=True)
        for task, kinds in of.items()
    ]
    return [chart for chart in drawn if chart]


def _dots(rows: Rows, methods: Sequence[str], tasks: Sequence[str]) -> list[charts.Chart]:
    """Accuracy of every seed, a picture a task."""
    found = []
    for task in tasks:
        of = {m: [100 * r["accuracy"] for r in rows if (r["method"], r["task"]) == (m, task)] for m in methods}
        if any(of.values()):
            found.append(charts.rows_of_dots(of, title=f"{task}: every seed", x_title="accuracy, %"))
    return found


def _forest(gaps: Sequence[Gap], baseline: str) -> charts.Chart | None:
    def ends(difference: Difference | None) -> tuple[float, float] | None:
        if difference is None or difference.low is None or difference.high is None:
            return None
        return 100 * difference.low, 100 * difference.high

    of = {g.method: (100 * g.pairs.mean, ends(g.pairs), ends(g.tasks)) for g in gaps if g.pairs}
    title = f"Difference to {baseline}"
    return charts.forest(of, title=title, x_title="percentage points of accuracy") if of else None


def _common(rows: Rows) -> dict[str, Any]:
    """What is the same in all cells: settings by their dotted names, versions and hardware."""
    described = [flat({**row["protocol"], "versions": row["versions"], "hardware": row["hardware"]}) for row in rows]
    names = dict.fromkeys(name for of in described for name in of)
    return {n: described[0][n] for n in names if all(n in of and of[n] == described[0][n] for of in described)}


def _differing(rows: Rows, kind: str, other: str) -> dict[str, dict[str, list[Any]]]:
    """Name of a method (or task) -> settings that set it apart from others on the same task (or of the same method)."""
    described = [(row[kind], row[other], flat(row["protocol"])) for row in rows]
    apart = [
        name
        for name in dict.fromkeys(name for *_, of in described for name in of)
        if any(_values(described, name, 1, of) > 1 for of in {row[other] for row in rows})
    ]
    found: dict[str, dict[str, list[Any]]] = {}
    for name, _, of in described:
        for setting in apart:
            values = found.setdefault(name, {}).setdefault(setting, [])
            if of.get(setting) not in values:
                values.append(of.get(setting))
    return found


def _values(described: Sequence[tuple[str, str, dict[str, Any]]], name: str, place: int, of: str) -> int:
    """How many values a setting has where the other name is `of`."""
    return len({repr(settings.get(name)) for *names, settings in described if names[place] == of})


def _selections(rows: Rows) -> list[Mapping[str, Any]]:
    """One row for every method and task whose settings were chosen from a grid."""
    return list({(row["method"], row["task"]): row for row in rows if row["selection"]}.values())
