"""Where things sit in the report's pictures: scales, ticks, marks and labels, in the units of an SVG's view box. Pure functions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 360.0, 270.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 12.0, 14.0, 44.0  # margins for tick labels and titles
NAMES = 152.0  # the left margin where it holds names
CHARACTER, LINE = 7.0, 16.0  # width and height of a label's letter
NEAR = 20.0  # up to so far above or below its mark a label needs no line to it
LONGEST = 20  # letters of a label
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Scale:
    """Values to pixels, straight or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value, to a tenth."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """Some round values inside."""
        if not self.log:
            return round_values(self.low, self.high)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = (1,) if len(decades) > 4 else (1, 2, 5)
        found = [v for d in decades for s in steps if self.low <= (v := s * 10.0**d) <= self.high]
        return found if len(found) > 1 else round_values(self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A point of `name`: centre, what a pointer or a finger on it shows, where its label stands (`anchor` is SVG's text-anchor).

    `leader` joins a label to its mark where it had to stand apart; there is no label where it would hide something.
    """

    name: str
    x: float
    y: float
    hover: str
    label: str = ""
    label_x: float = 0
    label_y: float = 0
    anchor: str = "start"
    leader: str = ""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture in WIDTH x `height`: ticks as (pixel, text), marks, and lines as SVG paths by name."""

    title: str
    x_title: str
    y_title: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    marks: list[Mark] = field(default_factory=list)
    lines: list[tuple[str, str]] = field(default_factory=list)
    faint: list[tuple[str, str]] = field(default_factory=list)
    height: float = HEIGHT
    description: str = ""


def round_values(low: float, high: float, most: int = 6) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten inside [low, high], at most `most`."""
    raw = (high - low) / (most - 1)
    power = 10 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def padded(values: Sequence[float], *, log: bool = False, share: float = 0.12) -> tuple[float, float]:
    """The range of values with room on both sides; never empty."""
    low, high = min(values), max(values)
    if log:
        factor = max((high / low) ** share, 1.25)
        return low / factor, high * factor
    room = max(share * (high - low), 0.01 * abs(high), 1e-6)
    return low - room, high + room


def scatter(
    points: Mapping[str, tuple[float, float]],
    frontier: Sequence[str],
    *,
    title: str,
    x_title: str,
    y_title: str,
    log: bool = False,
) -> Chart:
    """Points with their names, and the frontier as a staircase: what is reached at most up to a cost."""
    xs, ys = zip(*points.values(), strict=True)
    x = Scale(*padded(xs, log=log, share=0.18), LEFT, WIDTH - RIGHT, log=log)
    y = Scale(*padded(ys), HEIGHT - BOTTOM, TOP)
    centres = {name: (x(cost), y(accuracy)) for name, (cost, accuracy) in points.items()}
    corners = [(x(points[frontier[0]][0]), HEIGHT - BOTTOM)]
    for name in frontier:
        corners += [(centres[name][0], corners[-1][1]), centres[name]]
    corners.append((WIDTH - RIGHT, corners[-1][1]))
    hovers = {n: f"{n}\n{y_title}: {a:.2f}\n{x_title}: {c:,.5g}" for n, (c, a) in points.items()}
    return Chart(
        title=title,
        x_title=x_title,
        y_title=y_title,
        x_ticks=[(x(v), short(v)) for v in x.ticks()],
        y_ticks=[(y(v), short(v)) for v in y.ticks()],
        marks=_labelled(centres, hovers, corners),
        description="On the frontier, cheapest first: " + ", ".join(frontier),
        lines=[("frontier", "M" + "L".join(f"{a} {b}" for a, b in corners))],
    )


def curves(
    lines: Mapping[str, Sequence[Sequence[tuple[float, float]]]],
    *,
    title: str,
    x_title: str,
    y_title: str,
    dotted: bool = False,
) -> Chart | None:
    """Curves by name: each the mean of its runs where all of them have a value, with the single runs faint; None without any.

    A mark stands at the end of each, or, `dotted`, at each of its points.
    """
    drawn = {name: [run for run in runs if run] for name, runs in lines.items()}
    flat = [point for runs in drawn.values() for run in runs for point in run]
    if not flat:
        return None
    xs, ys = zip(*flat, strict=True)
    x = Scale(min(0.0, *xs), max(xs), LEFT, WIDTH - RIGHT)
    y = Scale(*padded(ys, share=0.06), HEIGHT - BOTTOM, TOP)
    means = {name: _mean(runs) for name, runs in drawn.items() if runs}
    return Chart(
        title=title,
        x_title=x_title,
        y_title=y_title,
        x_ticks=[(x(v), short(v)) for v in x.ticks()],
        y_ticks=[(y(v), short(v)) for v in y.ticks()],
        marks=[
            Mark(
                name=name,
                x=x(a),
                y=y(b),
                hover=f"{name}\n{y_title} at {f'{x_title} {a:g}' if dotted else 'the end'}: {b:.4g}",
            )
            for name, mean in means.items()
            for a, b in mean[0 if dotted else -1 :]
        ],
        lines=[(name, _path(mean, x, y)) for name, mean in means.items()],
        faint=[(name, _path(run, x, y)) for name, runs in drawn.items() if len(runs) > 1 for run in runs],
        description="; ".join(f"{name} ends at {short(mean[-1][1])}" for name, mean in means.items()),
    )


def rows_of_dots(values: Mapping[str, Sequence[float]], *, title: str, x_title: str) -> Chart:
    """One row a name with a dot for every value and a line at their mean."""
    height = TOP + BOTTOM + 24.0 * len(values)
    x = Scale(*padded([v for of in values.values() for v in of]), NAMES, WIDTH - RIGHT)
    middle = {name: TOP + 24.0 * (i + 0.5) for i, name in enumerate(values)}
    return Chart(
        title=title,
        x_title=x_title,
        y_title="",
        x_ticks=[(x(v), short(v)) for v in x.ticks()],
        y_ticks=[(y, cut(name)) for name, y in middle.items()],
        marks=[
            Mark(name=name, x=x(v), y=middle[name], hover=f"{name}\n{x_title}: {v:.2f}")
            for name, of in values.items()
            for v in of
        ],
        lines=[(name, f"M{x(sum(of) / len(of))} {middle[name] - 8}v16") for name, of in values.items() if of],
        height=height,
    )


def forest(
    intervals: Mapping[str, tuple[float, tuple[float, float] | None, tuple[float, float] | None]],
    *,
    title: str,
    x_title: str,
) -> Chart:
    """One row a name: its mean, an interval among `lines` (beside zero), and a second one among `faint`."""
    height = TOP + BOTTOM + 30.0 * len(intervals)
    ends = [
        0.0,
        *(v for mean, *both in intervals.values() for v in (mean, *(e for pair in both if pair for e in pair))),
    ]
    x = Scale(*padded(ends, share=0.06), NAMES, WIDTH - RIGHT)
    middle = {name: TOP + 30.0 * (i + 0.5) for i, name in enumerate(intervals)}
    strong = {name: (pair, middle[name]) for name, (_, pair, _) in intervals.items() if pair}
    thin = {name: (pair, middle[name]) for name, (_, _, pair) in intervals.items() if pair}
    return Chart(
        title=title,
        x_title=x_title,
        y_title="",
        x_ticks=[(x(v), signed(v)) for v in x.ticks()],
        y_ticks=[(y, cut(name)) for name, y in middle.items()],
        marks=[
            Mark(name=name, x=x(mean), y=middle[name], hover=f"{name}\n{x_title}: {mean:+.2f}")
            for name, (mean, _, _) in intervals.items()
        ],
        lines=[
            ("zero", f"M{x(0)} {TOP}V{height - BOTTOM}"),
            *((name, f"M{x(pair[0])} {y}H{x(pair[1])}") for name, (pair, y) in strong.items()),
        ],
        faint=[
            (name, f"M{x(pair[0])} {y - 4}v8M{x(pair[0])} {y}H{x(pair[1])}m0 -4v8") for name, (pair, y) in thin.items()
        ],
        height=height,
    )


def short(value: float) -> str:
    """A number for a tick: 1,200 as 1.2k, 0.05 as 0.05."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def signed(value: float) -> str:
    """A difference for a tick, with its sign."""
    return f"{'+' if value > 0 else ''}{short(value)}".replace("-", "\u2212")


def cut(name: str) -> str:
    """A name that fits beside a mark."""
    return name if len(name) <= LONGEST else name[: LONGEST - 1].rstrip() + "\u2026"


def _mean(runs: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The mean over runs at every place that all of them have; that of all their points where they share none."""
    values: dict[float, list[float]] = {}
    for run in runs:
        for place, value in run:
            values.setdefault(place, []).append(value)
    return [(place, sum(of) / len(of)) for place, of in sorted(values.items()) if len(of) == len(runs)]


def _path(points: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    return "M" + "L".join(f"{x(a)} {y(b)}" for a, b in points)


def _labelled(
    centres: Mapping[str, tuple[float, float]], hovers: Mapping[str, str], corners: Sequence[tuple[float, float]]
) -> list[Mark]:
    """Marks whose labels hide neither each other nor a mark, stay inside the frame, and keep clear of a line where they can.

    A mark for whose label no such place is left goes without: the legend has its name.
    """
    pairs = itertools.pairwise(corners)
    line = [(min(a, c) - 1, min(b, d) - 1, max(a, c) + 1, max(b, d) + 1) for (a, b), (c, d) in pairs]
    marks = {name: (x - 6, y - 6, x + 6, y + 6) for name, (x, y) in centres.items()}
    labels: list[Box] = []
    found = []
    for name, (x, y) in centres.items():
        others = [*labels, *(box for other, box in marks.items() if other != name)]
        text = cut(name)
        free = [
            offer
            for offer in _offers(x, y, CHARACTER * len(text))
            if not _trouble(offer.box, [*others, marks[name]]) and not any(map(_inside(others), offer.leader))
        ]
        if not free:
            found.append(Mark(name=name, x=x, y=y, hover=hovers[name]))
            continue
        best = min(free, key=lambda offer: _trouble(offer.box, line))
        labels += [best.box, *((a - 1, b - 1, a + 1, b + 1) for a, b in best.leader)]
        leader = f"M{x} {y}L{best.leader[-1][0]:.1f} {best.leader[-1][1]:.1f}" if best.leader else ""
        place = {"label_x": round(best.x, 1), "label_y": round(best.base, 1), "anchor": best.anchor, "leader": leader}
        found.append(Mark(name=name, x=x, y=y, hover=hovers[name], label=text, **place))  # type: ignore[arg-type]
    return found


@dataclass(frozen=True, kw_only=True)
class _Offer:
    """A place for a label: anchor, x and line, its box, and points of the line from the mark where it stands apart."""

    anchor: str
    x: float
    base: float
    box: Box
    leader: tuple[tuple[float, float], ...]


def _offers(x: float, y: float, width: float) -> Iterator[_Offer]:
    """Places for a label of this width beside a mark, the usual one first."""
    for dy in (4, -10, 19, -25, 34, -40, 49, -55, 64):
        for anchor, dx in (("start", 10), ("end", -10), ("middle", 0)):
            if anchor == "middle" and dy == 4:
                continue
            box = _box(anchor, x + dx, y + dy, width)
            end = min(max(x, box[0]), box[2]), box[1] if dy > 0 else box[3]
            steps = range(1, 13) if abs(dy - 4) > NEAR else ()
            leader = tuple((x + (end[0] - x) * i / 12, y + (end[1] - y) * i / 12) for i in steps)
            yield _Offer(anchor=anchor, x=x + dx, base=y + dy, box=box, leader=leader)


def _inside(boxes: Sequence[Box]) -> Callable[[tuple[float, float]], bool]:
    return lambda at: any(left < at[0] < right and top < at[1] < bottom for left, top, right, bottom in boxes)


def _box(anchor: str, x: float, base: float, width: float) -> Box:
    left = {"start": x, "end": x - width, "middle": x - width / 2}[anchor]
    return left, base - LINE + 4, left + width, base + 4


def _trouble(box: Box, taken: Sequence[Box]) -> float:
    """Area that a box shares with others, and its area outside the picture's frame."""
    left, top, right, bottom = box

    def shared(a: Box) -> float:
        return max(0.0, min(right, a[2]) - max(left, a[0])) * max(0.0, min(bottom, a[3]) - max(top, a[1]))

    outside = (right - left) * (bottom - top) - shared((LEFT, TOP - 8, WIDTH - 2, HEIGHT - BOTTOM))
    return sum(map(shared, taken)) + (outside if outside > 1e-6 else 0)
