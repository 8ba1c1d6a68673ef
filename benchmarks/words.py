"""Classes by words from few images: APT in the towers of a small pair against zero-shot, a probe and what others put on CLIP.

    python benchmarks/words.py                                  # rates, then all: 10 methods, 1, 4, 16 images a class, 3 seeds
    python benchmarks/words.py --methods zero-shot CoOp --shots 4 --seeds 0
    python benchmarks/words.py --table                          # the table of what has been run
    python benchmarks/words.py --picture docs/pictures/words.png

`clip-small-desk` on `tints`: 42 combinations of a garment and a colour, 12 of which the pair never saw together. K images of all 42
are learnt from; the test images of the 12 and of the 30 are scored apart, each with its name found among all 42. Rates, and
Tip-Adapter's alpha and beta, are chosen once for each method, at 4 images a class and seed 0, by 4 others of the training images a
class; test images are scored at the end of the other runs alone. One row of JSON for each run goes to
benchmarks/results/words.jsonl, and none is made twice. Needs Fashion-MNIST and the carriers (docs/data.md).
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rows

from gossamer.data.tints import SEEN, UNSEEN
from gossamer.report import figure_of, save_figure
from gossamer.runs.run import Data, Images, Model, Run, Training
from gossamer.training.train import train

RESULTS = Path(__file__).parent / "results" / "words.jsonl"
RUNS = Path("runs/words")
EPOCHS = {1: 20, 4: 12, 16: 5}  # by images a class
SEEDS = (0, 1, 2)
CHOSEN_AT = 4  # images a class
APT = {"method": "apt", "prompts": 12, "rank": 4}
LORA = {"method": "peft", "peft_type": "LORA", "r": 16, "lora_alpha": 16, "target_modules": ["vision.q", "vision.v"]}
Settings = dict[str, Any]
METHODS: dict[
    str, tuple[Settings, dict[str, list[float]]]
] = {  # and what is chosen; lr: the run's, else the method's own
    "zero-shot": ({"method": "untrained"}, {}),
    "linear probe": ({"method": "linear_probe"}, {}),
    "CoOp": ({"method": "coop"}, {"lr": [2e-3, 1e-2, 5e-2, 2e-1]}),
    "CLIP-Adapter": ({"method": "clip_adapter"}, {"lr": [1e-3, 1e-2, 5e-2]}),
    "Tip-Adapter-F": ({"method": "tip_adapter"}, {"lr": [1e-3], "alpha": [1.0, 3.0, 10.0], "beta": [1.0, 5.5, 20.0]}),
    "VPT, vision": ({"method": "vpt", "prompts": 12, "stack": "vision"}, {"lr": [3e-3, 1e-2]}),
    "LoRA, vision": (LORA, {"lr": [1e-3, 3e-3]}),
    "APT, vision": ({**APT, "stack": "vision"}, {"lr": [1e-3, 3e-3, 1e-2]}),
    "APT, text": ({**APT, "stack": "text"}, {"lr": [3e-4, 1e-3, 3e-3]}),
    "APT, both": ({**APT, "stack": "both"}, {"lr": [3e-4, 1e-3, 3e-3]}),
}


def planned(method: str, shots: int, seed: int, chosen: dict[str, float], *, choosing: bool) -> Run:
    """One run."""
    settings = {**METHODS[method][0], **{name: value for name, value in chosen.items() if name != "lr"}}
    if method == "Tip-Adapter-F":
        settings["shots"] = shots
    solved = method in ("zero-shot", "linear probe")
    tried = "-".join(f"{name}-{value:g}" for name, value in chosen.items())
    return Run(
        model=Model(name="dinov2-small", head="plain")
        if method == "linear probe"
        else Model(name="clip-small-desk", head="words"),
        data=Data(name="tints", shots=shots, validation=0.25 if choosing else 0.0, test=not choosing),
        images=Images(size=56, resize="direct"),
        methods=[settings],
        training=Training(
            epochs=0 if solved else EPOCHS[shots],
            batch=32,
            bf16="auto",
            attention="plain",
            schedule="cosine",
            lr=chosen.get("lr"),
        ),
        output=str(RUNS / method.replace(", ", "-") / f"{shots}-{'choosing' if choosing else 'final'}-{tried}-{seed}"),
        seed=seed,
    )


def perform(method: str, shots: int, seed: int, chosen: dict[str, float], *, choosing: bool) -> dict[str, Any]:
    """The row of a run, which is made where it is not there."""
    row: dict[str, Any] = {"method": method, "shots": shots, "chosen": chosen, "choosing": choosing}
    if (there := rows.there(RESULTS, row | {"seed": seed})) is not None:
        return there
    run = planned(method, shots, seed, chosen, choosing=choosing)
    metrics = train(run, overwrite=True)
    found = metrics["val" if choosing else "test"]
    row |= {
        "unseen": statistics.fmean(found["recall"][name] for name in UNSEEN),
        "seen": statistics.fmean(found["recall"][name] for name in SEEN),
        "accuracy": found["accuracy"], "loss": found["loss"],
        "trainable_parameters": metrics["trainable_parameters"], "seconds": metrics["seconds"],
    }  # fmt: skip
    row |= rows.describe(seed)
    rows.append(RESULTS, [row])
    return row


def best(method: str) -> dict[str, float]:
    """What is chosen for a method, on held-out training images; the least loss among settings of one accuracy."""
    grid = METHODS[method][1]
    tried = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if len(tried) == 1:
        return tried[0]
    found = [perform(method, CHOSEN_AT, 0, chosen, choosing=True) for chosen in tried]
    return max(found, key=lambda row: (row["accuracy"], -row["loss"]))["chosen"]


def finals() -> Iterator[dict[str, Any]]:
    """Rows of final runs."""
    return (row for row in rows.known(RESULTS) if not row["choosing"])


def shown() -> str:
    """Mean and standard deviation over seeds."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in finals():
        found.setdefault((row["method"], row["shots"]), []).append(row)
    lines = [f"{'method':<16}{'K':>4}{'parameters':>13}{'unseen, %':>15}{'seen, %':>15}{'seeds':>7}"]
    for method, shots in itertools.product(METHODS, EPOCHS):
        some = found.get((method, shots))
        if some:
            apart = "".join(f"{rows.spread([row[name] for row in some]):>15}" for name in ("unseen", "seen"))
            lines.append(f"{method:<16}{shots:>4}{some[0]['trainable_parameters']:>13,}{apart}{len(some):>7}")
    return "\n".join(lines)


def draw(file: Path) -> None:
    """Accuracy over images a class, for combinations that the pair had not seen and for those that it had."""
    figure, axes = figure_of(10, 4.2, columns=2)
    found = list(finals())
    looks = itertools.product(("-", "--"), ("o", "s", "^", "D", "v"))
    for number, (method, (line, marker)) in enumerate(zip(METHODS, looks, strict=True)):
        for axis, side in zip(axes, ("unseen", "seen"), strict=True):
            means = [
                100 * statistics.fmean(row[side] for row in found if (row["method"], row["shots"]) == (method, k))
                for k in EPOCHS
            ]
            axis.plot(range(len(EPOCHS)), means, linestyle=line, marker=marker, color=f"C{number}", label=method)
    for axis, title in zip(axes, ("12 combinations that the pair never saw", "30 that it saw"), strict=True):
        axis.set_xticks(range(len(EPOCHS)), list(EPOCHS))
        axis.set_xlabel("images of each class")
        axis.set_title(title)
        axis.set_ylim(60, 95)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("name found among all 42, %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    save_figure(figure, file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--shots", nargs="+", type=int, default=list(EPOCHS), choices=EPOCHS)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--table", action="store_true", help="print what has been run")
    parser.add_argument("--picture", type=Path, help="draw what has been run to this file")
    given = parser.parse_args()
    if given.picture is not None:
        draw(given.picture)
        raise SystemExit
    wanted = [] if given.table else itertools.product(given.seeds, given.methods, given.shots)
    for seed, method, shots in wanted:
        perform(method, shots, seed, best(method), choosing=False)
    print(shown())
