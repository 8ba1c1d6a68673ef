"""The picture of a race: every candidate's held-out loss over its epochs, rung by rung."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gossamer.report import figure_of, save_figure


def draw(rows: Sequence[dict[str, Any]], best: str, path: Path) -> None:
    """A panel for each rung, as a PNG at `path`: the winner in colour, what was left behind grey.

    `rows` as in `race.Raced`.
    """
    rungs = sorted({row["rung"] for row in rows})
    figure, panels = figure_of(3.2 * len(rungs) + 1.5, 3.6, columns=len(rungs))
    for rung, axes in zip(rungs, panels, strict=True):
        stay = {row["candidate"] for row in rows if row["rung"] == rung + 1} or {best}
        for row in (r for r in rows if r["rung"] == rung):
            won, kept = row["candidate"] == best, row["candidate"] in stay
            curve = [(r["epoch"], r["val_loss"]) for r in row["curve"] if "val_loss" in r] or [
                (row["epochs"], row["loss"])
            ]
            style: dict[str, Any] = {
                "color": "C0" if won else "0.35" if kept else "0.8",
                "zorder": 3 if won else 1 + kept,
            }
            axes.plot(*zip(*curve, strict=True), marker="o", markersize=3, linewidth=2 if won else 1, **style)
            if kept and math.isfinite(curve[-1][1]):
                axes.annotate(row["candidate"], curve[-1], fontsize=6, color=style["color"])
        axes.set(xlabel="epoch", title=f"{len({r['candidate'] for r in rows if r['rung'] == rung})} candidates")
        axes.margins(x=0.3)
    panels[0].set(ylabel="held-out loss")
    save_figure(figure, path)


def frontier(tried: Sequence[dict[str, Any]], within: float, cost: str, path: Path) -> None:
    """Points of held-out accuracy against the run over cost, for all that was tried, as a PNG at `path`; see `shrink`."""
    figure, (axes,) = figure_of(6, 4)
    for t in tried:
        axes.errorbar(
            t["cost"],
            -100 * t["lost"],
            yerr=100 * t["standard_error"],
            marker="o",
            color="C0" if t["within"] else "0.6",
        )
        axes.annotate(
            f"{t['blocks']} skipped"
            + (f", {t['merged']} merged" if t["merged"] else "")
            + (", int8" if t["int8"] else ""),
            (t["cost"], -100 * t["lost"]),
            xytext=(6, 4),
            textcoords="offset points",
        )
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.axhspan(-within, 0, color="C2", alpha=0.15)
    axes.margins(0.2)
    axes.set(
        xlabel=f"{cost} of the finished model, bare backbone = 1", ylabel="held-out accuracy against the run, points"
    )
    save_figure(figure, path)
