from __future__ import annotations

import itertools
import random

import pytest

from gossamer.comparison import charts
from gossamer.comparison.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale


def test_scales_are_straight_or_logarithmic() -> None:
    assert [Scale(10, 30, 100, 200)(v) for v in (10, 15, 30)] == [100, 125, 200]
    assert [Scale(1, 100, 0, 90, log=True)(v) for v in (1, 10, 100)] == [0, 45, 90]
    assert Scale(0, 1, 200, 0)(0.25) == 150


@pytest.mark.parametrize(
    ("low", "high", "values"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (78.3, 84.1, [80, 82, 84]),
        (-0.3, 0.4, [-0.2, 0, 0.2, 0.4]),
        (0.804, 0.822, [0.805, 0.81, 0.815, 0.82]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, values: list[float]) -> None:
    assert charts.round_values(low, high) == pytest.approx(values)


@pytest.mark.parametrize(
    ("low", "high", "values"),
    [
        (3000, 60_000, [5e3, 1e4, 2e4, 5e4]),
        (46_100, 46_900, [46_200, 46_400, 46_600, 46_800]),
        (1, 2e5, [1, 10, 100, 1e3, 1e4, 1e5]),
    ],
)
def test_logarithmic_ticks_thin_out_and_never_vanish(low: float, high: float, values: list[float]) -> None:
    assert Scale(low, high, 0, 1, log=True).ticks() == pytest.approx(values)


def test_marks_sit_where_their_values_say_and_the_frontier_goes_through_its_points() -> None:
    points = {"a": (1.0, 70.0), "b": (2.0, 80.0), "c": (3.0, 75.0)}
    chart = charts.scatter(points, ["a", "b"], title="t", x_title="cost", y_title="accuracy")
    places = {mark.name: (mark.x, mark.y) for mark in chart.marks}
    assert (places["c"][0] - places["b"][0]) == pytest.approx(places["b"][0] - places["a"][0], abs=0.2)
    assert (places["a"][1] - places["c"][1]) == pytest.approx(places["c"][1] - places["b"][1], abs=0.2)
    ((_, path),) = chart.lines
    corners = [tuple(map(float, corner.split())) for corner in path[1:].split("L")]
    assert {places["a"], places["b"]} <= set(corners)
    assert places["c"] not in corners
    assert corners[-1][0] == WIDTH - RIGHT
    assert chart.marks[2].hover == "c\naccuracy: 75.00\ncost: 3"
    assert chart.description == "On the frontier, cheapest first: a, b"


@pytest.mark.parametrize("seed", range(8))
def test_labels_keep_clear_of_each_other_and_stay_inside(seed: int) -> None:
    """Also where twelve methods crowd; then some go without."""
    draw = random.Random(seed)
    wide = 1 if seed % 2 else 0.05
    points = {f"a method called {i}": (1 + wide * draw.random(), 70 + 10 * draw.random()) for i in range(11)}
    points["far off"] = (2.0, 60.0)
    chart = charts.scatter(points, list(points)[:1], title="t", x_title="x", y_title="y")
    labelled = [m for m in chart.marks if m.label]
    assert len(labelled) >= (5 if wide == 1 else 4)
    boxes = [charts._box(m.anchor, m.label_x, m.label_y, charts.CHARACTER * len(m.label)) for m in labelled]
    for mark, box in itertools.product(chart.marks, boxes):
        assert not (box[0] < mark.x < box[2] and box[1] < mark.y < box[3])
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    for left, top, right, bottom in boxes:
        assert left >= LEFT
        assert top >= TOP - 9
        assert right <= WIDTH
        assert bottom <= HEIGHT - BOTTOM + 1


def test_curves_are_means_where_every_run_has_a_value() -> None:
    runs = [[(1, 4.0), (2, 2.0), (3, 1.0)], [(1, 2.0), (2, 1.0)]]
    chart = charts.curves({"a": runs, "b": [[]]}, title="t", x_title="epoch", y_title="loss")
    assert chart is not None
    assert [name for name, _ in chart.lines] == ["a"]
    assert chart.lines[0][1].count("L") == 1, "the third epoch has one run only"
    assert len(chart.faint) == 2
    assert chart.description == "a ends at 1.5"
    assert charts.curves({"a": [[]]}, title="t", x_title="x", y_title="y") is None


def test_one_point_alone_has_room_around_it() -> None:
    chart = charts.scatter({"a": (5.0, 100.0)}, ["a"], title="t", x_title="x", y_title="y")
    assert LEFT < chart.marks[0].x < WIDTH - RIGHT
    assert TOP < chart.marks[0].y < HEIGHT - BOTTOM
    assert chart.x_ticks
    assert chart.y_ticks
    assert charts.padded([0.0, 0.0]) == (-1e-6, 1e-6)


def test_a_forest_has_zero_and_both_intervals() -> None:
    chart = charts.forest({"a": (2.0, (1.0, 3.0), (-1.0, 5.0)), "b": (1.0, None, None)}, title="t", x_title="points")
    assert [name for name, _ in chart.lines] == ["zero", "a"]
    assert [name for name, _ in chart.faint] == ["a"]
    assert len(chart.marks) == 2
    assert {text for _, text in chart.x_ticks} >= {"0", "+2"}
    assert charts.signed(-0.5) == "\u22120.5"


def test_long_names_are_cut() -> None:
    assert charts.cut("a" * 20) == "a" * 20
    assert charts.cut("LoRA of rank 8 on q and v") == "LoRA of rank 8 on q\u2026"
    assert [charts.short(v) for v in (0.05, 950, 1500, 2e6, 3e9)] == ["0.05", "950", "1.5k", "2M", "3G"]
