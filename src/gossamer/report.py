"""Pictures: learning curves, confusion, accuracy against compute. matplotlib is imported when one is drawn."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gossamer.documents import naming

MANY = 20  # classes from which on a confusion matrix has no numbers and no names


def available() -> bool:
    """Whether pictures can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


def curves(history: Sequence[Mapping[str, float]], path: str | Path) -> None:
    """Loss and accuracy over the epochs, as a PNG at `path`.

    `history` has one record an epoch: epoch, loss and, where there was validation, val_loss and val_accuracy. Epoch 0, before the
    first step, has no loss of training.
    """
    figure, (left, right) = figure_of(9, 3.4, columns=2)
    epochs, trained = [record["epoch"] for record in history], [record for record in history if "loss" in record]
    left.plot([r["epoch"] for r in trained], [r["loss"] for r in trained], marker="o", label="training")
    if "val_loss" in history[0]:
        left.plot(epochs, [record["val_loss"] for record in history], marker="o", label="validation")
        right.plot(epochs, [100 * record["val_accuracy"] for record in history], marker="o", color="C1")
        if epochs[0] == 0:
            right.axhline(100 * history[0]["val_accuracy"], color="0.6", linestyle=":", label="before the first step")
            right.legend()
    else:
        right.text(0.5, 0.5, "no validation images", ha="center", va="center", transform=right.transAxes)
    left.set(xlabel="epoch", ylabel="loss")
    left.legend()
    right.set(xlabel="epoch", ylabel="validation accuracy, %")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    save_figure(figure, path)


def confusion(counts: Sequence[Sequence[int]], names: Sequence[str], path: str | Path, *, title: str) -> None:
    """The confusion matrix `counts` [true, predicted] of classes, each row as shares of its true class, as a PNG at `path`."""
    shares = [[n / max(1, sum(row)) for n in row] for row in counts]
    side = min(12.0, 2.5 + 0.6 * len(names)) if len(names) <= MANY else 8.0
    figure, (axes,) = figure_of(side + 1, side)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= MANY:
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), names)
        for i, row in enumerate(counts):
            for j, count in enumerate(row):
                axes.text(j, i, count, ha="center", va="center", color="white" if shares[i][j] > 0.5 else "black")
    axes.set(xlabel="predicted", ylabel="true", title=title)
    figure.colorbar(image, label="share of the true class")
    save_figure(figure, path)


def beside(rows: Sequence[Sequence[Any]], names: Sequence[str], path: str | Path, *, title: str) -> None:
    """Rows of images, one under the other, each column under its name, as a PNG at `path`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.4 * len(names), 2.4 * len(rows) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    for line, row in zip(figure.subplots(len(rows), len(names), squeeze=False), rows, strict=True):
        for axes, image in zip(line, row, strict=True):
            axes.imshow(image, interpolation="nearest")
            axes.set_axis_off()
    for axes, name in zip(figure.axes, names, strict=False):
        axes.set_title(name)
    figure.suptitle(title)
    save_figure(figure, path)


def preferences(
    history: Sequence[Mapping[str, Any]], arms: Sequence[str], chosen: Sequence[int], path: str | Path
) -> None:
    """How the preferences of a search moved, as a PNG at `path`: arms that were found in colour and by name, the others grey.

    `history` has one record an update: step and preferences of all arms.
    """
    figure, (axes,) = figure_of(7.5, 4)
    steps = [history[0]["step"], *(record["step"] for record in history)]
    for arm in sorted(range(len(arms)), key=lambda i: i in chosen):
        values = [0.0, *(record["preferences"][arm] for record in history)]
        style: dict[str, Any] = (
            {"label": arms[arm]} if arm in chosen else {"color": "0.75", "linewidth": 1, "zorder": 1}
        )
        axes.step(steps, values, where="post", **style)
    axes.set(xlabel="training step of the super-network", ylabel="preference")
    if chosen:
        figure.legend(loc="outside right upper", frameon=False, title="found")
    save_figure(figure, path)


def accuracy_against_compute(methods: Mapping[str, Mapping[str, Any]], path: str | Path, *, title: str) -> None:
    """Accuracy over GMACs, one point a method with its trained parameters, as a PNG at `path`.

    A line joins those on the frontier: none of the others is as accurate at as few GMACs. `methods` maps a name to a record with
    accuracy (0 to 1), gmacs, bare_gmacs and trainable_parameters, and latency_ratio_at_1 where the time was measured.
    """
    figure, (axes,) = figure_of(6, 4.6)
    for name, record in methods.items():
        place = record["gmacs"], 100 * record["accuracy"]
        text = f"{name}: {record['trainable_parameters']:,} trained"
        if "latency_ratio_at_1" in record:
            text += f", {record['latency_ratio_at_1']:.2f} of the bare backbone's time"
        axes.scatter(*place, s=80, zorder=3, label=text)
        axes.annotate(name, place, xytext=(0, 8), textcoords="offset points", ha="center")
    best = frontier([(record["gmacs"], 100 * record["accuracy"]) for record in methods.values()])
    axes.plot(*zip(*best, strict=True), color="0.6", zorder=1)
    bare = next(iter(methods.values()))["bare_gmacs"]
    axes.axvline(bare, color="0.6", linestyle=":", zorder=0, label="bare backbone")
    figure.legend(loc="outside lower center", frameon=False)
    axes.margins(0.2, 0.35)
    axes.set_xlim(left=0)
    axes.set(xlabel="GMACs per image, finished model", ylabel="accuracy, %", title=title)
    save_figure(figure, path)


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of points (cost, gain) those to which no other is as cheap and as good, by cost."""
    found: list[tuple[float, float]] = []
    for cost, gain in sorted(points, key=lambda p: (p[0], -p[1])):
        if not found or gain > found[-1][1]:
            found.append((cost, gain))
    return found


def figure_of(width: float, height: float, columns: int = 1, *, rows: int = 1) -> tuple[Any, list[Any]]:
    """A figure without a window, and its axes row by row; drawn without pyplot, which would keep every figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def grid_of_axes(rows: int, columns: int) -> tuple[Any, Any]:
    """A figure of tiles of one size, and its axes [rows, columns], which are not drawn themselves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    high = 1.45 * rows + 0.4
    figure = Figure(figsize=(1.3 * columns, high))
    FigureCanvasAgg(figure)
    # Tiles of one size need no layout to be found, which would take as long as drawing them.
    places = {"left": 0.01, "right": 0.99, "bottom": 0.05 / high, "top": 1 - 0.5 / high, "wspace": 0.05, "hspace": 0.2}
    grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw=places)
    for axes in grid.flat:
        axes.set_axis_off()
    return figure, grid


def contact_sheet(rows: Mapping[str, Sequence[Any]], path: str | Path) -> None:
    """Images in rows, a title to each row, as a PNG at `path`; the images are of PIL."""
    import numpy as np

    figure, grid = grid_of_axes(len(rows), max(map(len, rows.values())))
    for of_row, (title, images) in zip(grid, rows.items(), strict=True):
        for axes, image in zip(of_row, images, strict=False):
            axes.imshow(np.asarray(image))
        of_row[0].set_title(title, fontsize=8, loc="left")
    save_figure(figure, path)


def save_figure(figure: Any, path: str | Path) -> None:
    """Writes a PNG."""
    with naming(path):
        figure.savefig(
            path, dpi=120, metadata={"Software": None}
        )  # no version in the file: equal runs give equal pictures
