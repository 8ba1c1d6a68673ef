"""A run without its methods: the linear probe of the bare backbone, beside what prompts and the like have made of it.

The solved head of LoRA or adapters, which change nothing before their first step, is this probe. That of prompts is another: ten
of them beside some tokens change the features before anything is learnt, and few images do not make up for it.
"""

from __future__ import annotations

from gossamer.adapting import Adapted, adapt
from gossamer.hosts import heads
from gossamer.methods import LinearProbe
from gossamer.runs.prepared import PreparedSet
from gossamer.runs.progress import Journal
from gossamer.runs.run import Run
from gossamer.tasks.base import Task
from gossamer.training import solving, starting


def preferred(
    adapted: Adapted, task: Task, items: dict[str, PreparedSet], run: Run, journal: Journal
) -> Adapted | None:
    """The linear probe, if by the rule of keep=better it is to be kept in place of the trained model; else None.

    Models that methods made cheaper than the bare backbone (skipped blocks, merged tokens) are not set against it.
    """
    sheet = adapted.cost(**task.sizes())
    if sheet.finished.counted < sheet.bare.counted:
        return None
    probe = adapt(task.backbone(run), LinearProbe(), num_labels=task.outputs)
    probe.to(next(adapted.parameters()).device)
    probe.metadata |= adapted.metadata
    solving.solve(probe, items["train"], run).best.put_into(heads.last_linear(probe.head))  # type: ignore[arg-type]
    now, bare = (
        task.score(model, items["val"], workers=run.training.readers).headline()["accuracy"]
        for model in (adapted, probe)
    )
    error = starting.standard_error(bare, len(items["val"]))
    if now > bare + error:
        return None
    names = ", ".join(method.name for method in adapted.applied)
    journal.say(
        f"the linear probe of the bare backbone is kept, without {names}: {task.measure} {bare:.2%} on {len(items['val']):,} "
        f"validation items; with it {now:.2%}, not better by more than one standard error, {error:.2%}"
    )
    return probe
