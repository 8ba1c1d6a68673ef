"""What is worth trying on a set of images, before anything is trained: usual settings, and what each would take here (ours).

Parameters and multiply-adds are counted; the time of a training step and of an inference is measured on this machine, on few items
and with few repetitions. A run is estimated from them, and what fits the budget of time goes into a comparison file.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gossamer import hosts, methods, tasks
from gossamer.adapting import adapt
from gossamer.comparison.settings import Comparison
from gossamer.comparison.timing import passes, steps
from gossamer.cost.counting import Sample
from gossamer.errors import UserError
from gossamer.methods.das import DAS
from gossamer.runs.run import Run
from gossamer.runs.sets import load_sets
from gossamer.tasks.reading import SECTIONS

MEASURED, REPEATS = 8, 3  # items of a batch that is timed, and how often
LORA = {"method": "peft", "peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q", "v"]}
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Methods with the learning rates to choose among, as a comparison has them; no rates: nothing is tuned, or the usual one."""

    name: str
    methods: tuple[dict[str, Any], ...]
    rates: tuple[float, ...] = ()

    def of_comparison(self) -> dict[str, Any]:
        """What stands under its name in a comparison file."""
        grid = {"grid": {"training.lr": list(self.rates)}} if self.rates else {}
        return {"methods": list(self.methods), **grid}


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What a setting would take.

    Attributes:
        setting: methods and rates.
        refused: why this model cannot have it, in words; all else is None then.
        trainable: parameters that are trained, the head among them.
        gmacs, share: of the finished model and one item; as a share of the bare backbone's.
        latency: time of one item through the finished model, as a share of the bare backbone's.
        step_mib: MiB that a training step makes and holds at most, beside the weights.
        run_minutes: one run of it, with features for the head and scoring.
        minutes: all runs that a comparison makes of it, those that choose a rate among them.
        fits: whether the budget of time has room for it, behind those before it.
    """

    setting: Setting
    refused: str | None = None
    trainable: int | None = None
    gmacs: float | None = None
    share: float | None = None
    latency: float | None = None
    step_mib: float | None = None
    run_minutes: float | None = None
    minutes: float | None = None
    fits: bool = False


def usual(model: Any, size: int | None) -> list[Setting]:
    """What is usual for a model, the most worth trying first; rates are those of docs/desk.md."""
    anatomy = hosts.read(model)
    blocks = len(DAS(skip=1, rank=1).candidates(anatomy))
    found = [
        Setting(name="linear probe", methods=({"method": "linear_probe"},)),
        Setting(name="LoRA", methods=(LORA,), rates=(1e-3, 3e-3)),
        Setting(name="VPT-deep", methods=({"method": "vpt", "prompts": 10},), rates=(3e-3, 1e-2)),
    ]
    for count in sorted({blocks // 2, 2 * blocks // 3} - {0}):
        # The deepest but the last one, where there is one to spare.
        end = blocks - (blocks - count > 1)
        das = {
            "method": "das",
            "rank": 0,
            "bridge": "per-run",
            "bridge_start": "closed",
            "skip": [*range(end - count, end)],
        }
        name = f"LoRA without {count} of {blocks} blocks"
        found.append(Setting(name=name, methods=(LORA, das), rates=(1e-3, 3e-3)))
    block = anatomy.blocks()[0]
    patches = block.tokens(Sample.of(model, size).tokens(anatomy)) - block.prefix
    merged = patches // 2 // blocks
    if merged:
        tome = {"method": "tome", "r": merged}
        found.append(Setting(name=f"LoRA, {merged} tokens merged a block", methods=(LORA, tome), rates=(1e-3, 3e-3)))
    adapter = {"method": "adapter", "rank": 64, "placement": "parallel", "scale": 0.1, "dropout": 0.1}
    found.append(Setting(name="CVPT", methods=({"method": "cvpt", "prompts": 10},), rates=(3e-2, 3e-1)))
    found.append(Setting(name="AdaptFormer", methods=(adapter,), rates=(3e-3, 1e-2)))
    return found


def plan(run: Run, *, seeds: int = 3, budget_minutes: float | None = None) -> list[Planned]:
    """What every usual setting would take on a run's model, items and machine; nothing is trained.

    Args:
        run: model, data, sizes and training. Its methods are not read.
        seeds: with which a comparison trains every setting.
        budget_minutes: settings are chosen from the first on while their minutes together stay below. None: all.

    Raises:
        UserError: data and model do not fit.
    """
    if seeds < 1 or (budget_minutes is not None and not 0 < budget_minutes < math.inf):
        raise UserError(f"seeds and budget_minutes must be above 0, got {seeds} and {budget_minutes}")
    kind = tasks.kind(run)
    sets = load_sets(run)
    task: Any = kind.begin(run, sets["train"])
    found, left = [], math.inf if budget_minutes is None else budget_minutes
    for setting in usual(task.backbone(run), task.preprocessing.size):
        try:
            one = _measured(setting, run, task, sets, seeds)
        except UserError as error:
            found.append(Planned(setting=setting, refused=str(error)))
            continue
        fits = one.minutes is not None and one.minutes <= left
        left -= one.minutes if fits and one.minutes is not None else 0.0
        found.append(dataclasses.replace(one, fits=fits))
    return found


def comparison(run: Run, found: Sequence[Planned], *, seeds: int, output: str) -> Comparison:
    """What fits, as a comparison with its folder.

    Raises:
        UserError: nothing does.
    """
    chosen = [one.setting for one in found if one.fits]
    if not chosen:
        least = min((one.minutes for one in found if one.minutes is not None), default=None)
        took = "no setting suits this model" if least is None else f"the least takes about {least:.1f} minutes"
        raise UserError(f"nothing fits the budget: {took}; give more minutes, fewer seeds or a smaller images.size")
    said = {name: _said(getattr(run, name)) for name in SECTIONS if name != "data"}
    return Comparison(
        run={name: settings for name, settings in said.items() if settings},
        methods={setting.name: setting.of_comparison() for setting in chosen},
        tasks={run.data.name: {"data": _said(run.data)}},
        seeds=[run.seed + i for i in range(seeds)],
        output=output,
    )


def _measured(setting: Setting, run: Run, task: Any, sets: dict[str, Any], seeds: int) -> Planned:
    applied = [methods.from_dict(values) for values in setting.methods]
    adapted = adapt(task.backbone(run), applied, num_labels=task.outputs)
    train = sets["train"]
    few = train.subset(list(range(min(MEASURED, len(train)))))
    for one in (m for m in adapted.applied if m.learns_from != "nothing"):
        one.prepare(adapted, task.prepare(few))
    sheet = adapted.cost(**task.sizes())
    tuned = applied[0].name != "linear_probe" and run.training.epochs > 0
    timed = dataclasses.replace(run, training=dataclasses.replace(run.training, batch=len(few)))
    step = steps(adapted, task, train, timed, repeats=REPEATS) if tuned else {"step_ms": 0.0, "step_mib": 0.0}
    one_item = passes(adapted, task, few.subset([0]), repeats=REPEATS)["latency_ratio"]
    several = passes(adapted, task, few, repeats=REPEATS)
    shares = {name: several[name] / len(few) for name in ("latency_ms", "bare_latency_ms")} | {
        name: step[name] / len(few) for name in ("step_ms", "step_mib")
    }
    minutes = run_minutes(run, {name: len(items) for name, items in sets.items()}, shares, tuned=tuned)
    return Planned(
        setting=setting,
        trainable=sheet.trained_parameters,
        gmacs=sheet.finished.counted / 1e9,
        share=sheet.ratios["finished"],
        latency=one_item,
        step_mib=shares["step_mib"] * run.training.batch,
        run_minutes=minutes,
        minutes=minutes * (seeds + (len(setting.rates) if len(setting.rates) > 1 else 0)),
    )


def run_minutes(run: Run, items: dict[str, int], ms: dict[str, float], *, tuned: bool) -> float:
    """Of one run, from the milliseconds that one item takes in a step and in a pass.

    The head is solved on features of the training items; with validation items there is a pass over them after every epoch.
    """
    epochs = run.training.epochs if tuned else 0
    probed = items["train"] if run.training.warm_start else 0
    scored = items.get("test", 0) + items.get("val", 0) * max(1, epochs)
    return (
        probed * ms["bare_latency_ms"] + epochs * items["train"] * ms["step_ms"] + scored * ms["latency_ms"]
    ) / 60_000


def _said(part: Any) -> dict[str, Any]:
    """The settings of a part of a run that are not the usual ones, and its name."""
    usual = {f.name: f.default for f in dataclasses.fields(part) if f.default is not dataclasses.MISSING}
    values = dataclasses.asdict(part)
    return {k: v for k, v in values.items() if (k not in usual or usual[k] != v) and v not in ([], {}, ())}
