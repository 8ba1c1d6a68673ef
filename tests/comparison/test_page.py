"""The report, read without a browser: its numbers are recomputed from the rows it carries, by other means than its own."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pytest
from scipy import stats

from gossamer.comparison import charts, page
from gossamer.methods import VPT

from . import made
from .pages import Page

METHODS, TASKS, SEEDS = list(made.METHODS), list(made.TASKS), len(made.SEEDS)
FAILING = ("AdaptFormer", "fashion", 1)
FRONTIER = " \u25c6 on the frontier"


@pytest.fixture(scope="module")
def text() -> str:
    return page.render(made.rows(), baseline="linear probe")


@pytest.fixture(scope="module")
def shown(text: str) -> Page:
    return Page(text)


def table(shown: Page, value: str) -> dict[str, np.ndarray]:
    """method -> values [tasks, seeds] in the rows that the page carries."""
    found = {m: [r[value] for t in TASKS for r in shown.rows if (r["method"], r["task"]) == (m, t)] for m in METHODS}
    return {m: np.array(values, dtype=float).reshape(len(TASKS), SEEDS) for m, values in found.items()}


def test_the_page_carries_its_rows(shown: Page) -> None:
    assert shown.rows == json.loads(json.dumps(made.rows()))


def test_the_overview_follows_from_the_rows(shown: Page) -> None:
    body = {name.removesuffix(FRONTIER): cells for name, cells in shown.body("overview").items()}
    order = list(body)
    for column, value in enumerate(("accuracy", "balanced_accuracy")):
        for method, of in table(shown, value).items():
            found, printed = body[method][column]
            over_seeds = of.mean(0)
            assert float(found or "nan") == pytest.approx(of.mean())
            assert printed == f"{100 * of.mean():.1f} \u00b1 {100 * over_seeds.std(ddof=1):.1f}"
    costs = {2: "trainable_parameters", 3: "gmacs", 4: "training_gmacs", 5: "latency_ratio", 6: "seconds"}
    for column, value in costs.items():
        for method, of in table(shown, value).items():
            found = body[method][column][0]
            assert (found is None) if np.isnan(of).all() else float(found or "nan") == pytest.approx(of.mean())
    accuracy = table(shown, "accuracy")
    assert order == sorted(METHODS, key=lambda m: -accuracy[m].mean())
    vpt = body["VPT-deep"]
    assert vpt[2][1] == "49,930"
    assert vpt[3][1] == f"0.810 \u00d7 {0.8101 / 0.8059:.3f}"
    ratio, milliseconds = (table(shown, f"latency_{unit}")["VPT-deep"].mean() for unit in ("ratio", "ms"))
    assert vpt[5][1] == f"{ratio:.2f} {milliseconds:.1f} ms"
    assert body["linear probe"][4] == (None, "\u2013"), "a solved head has no training step"


def test_the_frontier_of_the_overview_follows_from_the_rows(shown: Page) -> None:
    accuracy = {m: of.mean() for m, of in table(shown, "accuracy").items()}
    gmacs = {m: of.mean() for m, of in table(shown, "gmacs").items()}

    def beaten(m: str) -> bool:
        rivals = [o for o in METHODS if gmacs[o] <= gmacs[m] and accuracy[o] >= accuracy[m]]
        return any((gmacs[o], accuracy[o]) != (gmacs[m], accuracy[m]) for o in rivals)

    kept = {m for m in METHODS if not beaten(m)}
    assert {name.removesuffix(FRONTIER) for name in shown.body("overview") if name.endswith(FRONTIER)} == kept
    assert len(kept) >= 2


def test_accuracies_by_task_follow_from_the_rows(shown: Page, text: str) -> None:
    accuracy = table(shown, "accuracy")
    assert [cell[1] for cell in shown.tables["tasks"][0]] == ["Method", *TASKS]
    for column, _ in enumerate(TASKS):
        values = shown.values("tasks", column)
        for method, of in accuracy.items():
            assert values[method] == pytest.approx(of[column].mean())
            spread = f"{100 * of[column].mean():.1f} \u00b1 {100 * of[column].std(ddof=1):.1f}"
            assert shown.body("tasks")[method][column][1] == spread
    assert text.count('class="best"') == len(TASKS)


def test_differences_follow_from_the_rows(shown: Page) -> None:
    accuracy = table(shown, "accuracy")
    assert list(shown.body("differences")) == METHODS[1:]
    for method, (mean, pairs, tasks, count) in shown.body("differences").items():
        apart = accuracy[method] - accuracy["linear probe"]
        over_pairs = stats.ttest_1samp(apart.ravel(), 0).confidence_interval(0.95)
        over_tasks = stats.ttest_1samp(apart.mean(1), 0).confidence_interval(0.95)
        assert float(mean[0] or "nan") == pytest.approx(apart.mean())
        assert float(pairs[0] or "nan") == pytest.approx(over_pairs.low)
        assert float(tasks[0] or "nan") == pytest.approx(over_tasks.low)
        assert pairs[1].replace("\u2212", "-") == f"{100 * over_pairs.low:+.1f} to {100 * over_pairs.high:+.1f}"
        assert count == (str(apart.size), str(apart.size))
        for column, on_task in enumerate(apart):
            value, printed = shown.body("task-differences")[method][column]
            ends = stats.ttest_1samp(on_task, 0).confidence_interval(0.95)
            assert float(value or "nan") == pytest.approx(on_task.mean())
            whole = f"{100 * on_task.mean():+.1f} {100 * ends.low:+.1f} to {100 * ends.high:+.1f}"
            assert printed.replace("\u2212", "-") == whole


def test_the_opening_sentence_follows_from_the_rows(shown: Page, text: str) -> None:
    accuracy = table(shown, "accuracy")
    best = max(METHODS, key=lambda m: accuracy[m].mean())
    lede = " ".join(re.sub(r"<[^>]+>", "", re.findall(r'<p class="lede">(.*?)</p>', text, re.DOTALL)[0]).split())
    apart = (accuracy[best] - accuracy["linear probe"]).mean()
    assert lede.startswith(f"{best} is the most accurate on average: {100 * accuracy[best].mean():.1f}&nbsp;% at")
    found = shown.body("differences")[best]
    both = f"(95&nbsp;% interval over tasks {found[2][1]}, over pairs of task and seed {found[1][1]})"
    assert lede.endswith(f"{100 * apart:+.1f} points against linear probe {both}.")


def test_columns_are_those_that_the_rows_have(shown: Page) -> None:
    assert [cell[1].partition(" ")[0] for cell in shown.tables["overview"][0]] == [
        "Method", "Accuracy", "Balanced", "Trained", "Inference", "Step", "Latency", "Training",
    ]  # fmt: skip
    written = [
        row | {"balanced_accuracy": None, "answer_ms": 40.0, "answer_ratio": 1.5, "step_ms": 9.0} for row in made.rows()
    ]
    shown = Page(page.render([row | {"step_ratio": 2.5, "step_mib": 70.0} for row in written], baseline="linear probe"))
    heads = [cell[1] for cell in shown.tables["overview"][0]]
    assert [head.partition(" ")[0] for head in heads] == [
        "Method", "Accuracy", "Trained", "Inference", "Step", "Latency", "Answer", "Step", "Memory", "Training",
    ]  # fmt: skip
    assert [cell[1] for cell in shown.body("overview")["linear probe"][5:8]] == ["1.50 40 ms", "2.50 9 ms", "70"]
    assert "Balanced" not in " ".join(cell[1] for cell in shown.tables["cells"][0])
    assert "text alone" not in Page(page.render(written, baseline="linear probe")).tables["overview"][0][7][1]


def test_which_method_had_which_rate(shown: Page) -> None:
    rates = shown.body("rates")
    assert [cell[1] for cell in rates["VPT-deep"]] == ["0.01", "0.03", "0.03"], "chosen for each task"
    assert [cell[1] for cell in rates["LoRA r=8 on q, v"]] == ["0.001"] * 3
    assert [cell[1] for cell in rates["linear probe"]] == ["\u2013"] * 3
    usual = [row for row in made.rows() if row["method"] == "SPT-deep"]
    for row in usual:
        row["protocol"]["training"]["lr"] = None
    assert page.rates(usual) == [f"{VPT.learning_rate:g}"]


def test_curves_begin_before_the_first_step(text: str) -> None:
    pictures = re.findall(r'<figure class="curves">(.*?)</figure>', text, re.DOTALL)
    scored = next(p for p in pictures if "fashion: validation accuracy" in p)
    first = re.findall(r'class="line s\d d\d" d="M([\d.]+) ', scored)
    assert first == [f"{charts.LEFT}"] * (len(METHODS) - 1)
    trained = next(p for p in pictures if "fashion: training loss" in p)
    assert all(float(x) > charts.LEFT for x in re.findall(r'class="line s\d d\d" d="M([\d.]+) ', trained))


def test_many_methods_are_told_apart() -> None:
    many = [dict(row, method=f"{row['method']}, {i}") for i in range(3) for row in made.rows()]
    style = page.content(many, "linear probe, 0")["style"]
    assert len(style) == 27
    assert len({(colour, shape) for colour, shape, _ in style.values()}) == 27
    assert len({shape for _, shape, _ in list(style.values())[:8]}) == 8, "in black and white too"
    assert len({(colour, dash) for colour, _, dash in list(style.values())[:21]}) == 21, "curves"


def test_pictures_hold_the_same_values(text: str) -> None:
    hovers = re.findall(r"<title>(.*?)</title>", text, re.DOTALL)
    rows = [r for r in made.rows() if (r["method"], r["task"]) == ("SPT-deep", "fashion")]
    mean = 100 * np.mean([r["accuracy"] for r in rows])
    assert f"SPT-deep\naccuracy, %: {mean:.2f}\ntrained parameters: 49,930" in hovers
    assert sum(h == f"SPT-deep\naccuracy, %: {100 * rows[0]['accuracy']:.2f}" for h in hovers) >= 1
    last = np.mean([r["curve"][-1]["loss"] for r in rows])
    assert f"SPT-deep\ntraining loss at the end: {last:.4g}" in hovers


def test_accuracy_is_drawn_over_the_number_of_prompts_where_there_are_several() -> None:
    rows = made.rows()
    numbers = {"VPT-deep": 5, "SPT-deep": 20}  # the same method with 10 prompts elsewhere
    for row in rows:
        for of in row["protocol"]["methods"]:
            of["prompts"] = numbers.get(row["method"], 10)
    text = page.render(rows, baseline="linear probe")
    hovers = re.findall(r"<title>(.*?)</title>", text, re.DOTALL)
    for method, prompts in numbers.items():
        mean = 100 * np.mean([r["accuracy"] for r in rows if (r["method"], r["task"]) == (method, "location")])
        assert f"vpt(prompts=p)\naccuracy, % at prompts {prompts}: {mean:.4g}" in hovers
    alike = [r for r in rows if r["method"] not in (*numbers, "linear probe") and r["task"] == "location"]
    mean = 100 * np.mean([r["accuracy"] for r in alike])
    assert f"vpt(prompts=p)\naccuracy, % at prompts 10: {mean:.4g}" in hovers
    assert "Accuracy against number of prompts" not in page.render(made.rows(), baseline="linear probe")


def test_nothing_is_fetched_from_anywhere(shown: Page, text: str) -> None:
    assert not re.search(r"https?://", text)
    for tag, attributes in shown.tags:
        assert tag not in ("img", "iframe", "object", "embed", "audio", "video", "base")
        assert "src" not in attributes
        assert str(attributes.get("href", "#")).startswith(("#", "data:,"))
        assert not any(name.startswith("on") for name in attributes)
    assert "@import" not in text
    assert "url(" not in text
    policy = next(a["content"] for tag, a in shown.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'")


def test_tables_and_pictures_can_be_read_aloud(shown: Page, text: str) -> None:
    count = sum(tag == "table" for tag, _ in shown.tags)
    assert count == sum(tag == "caption" for tag, _ in shown.tags) == len(shown.tables) == 9
    assert all(a.get("scope") in ("col", "row") for tag, a in shown.tags if tag == "th")
    ids = [a["id"] for _, a in shown.tags if "id" in a]
    assert len(ids) == len(set(ids))
    pictures = [a for tag, a in shown.tags if tag == "svg" and a.get("role") == "img"]
    assert len(pictures) == 3 * (1 + len(TASKS)) + len(TASKS) + 1 + 2 * len(TASKS)
    for _, attributes in shown.tags:
        for name in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(name) is None or attributes[name] in ids
    assert all(a.get("aria-hidden") == "true" or a.get("role") == "img" for tag, a in shown.tags if tag == "svg")
    assert '<html lang="en">' in text
    levels = [int(tag[1]) for tag, _ in shown.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_names_and_errors_are_escaped() -> None:
    rows = made.rows(failing=FAILING)
    for row in rows:
        row["method"] = row["method"].replace("VPT-deep", "<b>VPT</b> & </script>")
    text = page.render(rows, baseline="linear probe")
    assert "<b>" not in text
    assert "lower &lt;training.lr&gt;" in text
    assert Page(text).rows == json.loads(json.dumps(rows))


def test_a_method_that_failed_somewhere_has_no_mean_over_tasks_there() -> None:
    """One failed seed leaves the mean of the two others; a failed task leaves no mean, and no mark in the pictures of the mean."""
    rows = made.rows(failing=FAILING)
    shown = Page(page.render(rows, baseline="linear probe"))
    kept = [r["accuracy"] for r in rows if r["method"] == "AdaptFormer" and r["seed"] != 1]
    assert shown.values("overview", 0)["AdaptFormer"] == pytest.approx(np.mean(kept))
    assert shown.body("differences")["AdaptFormer"][3][1] == "8"
    for row in rows:
        if row["method"] == "LoRA r=8 on q, v" and row["task"] == "location":
            row |= made._failed(row["method"], row["task"], row["seed"])
    text = page.render(rows, baseline="linear probe")
    assert Page(text).body("overview")["LoRA r=8 on q, v"][0] == (None, "\u2013")
    assert Page(text).body("tasks")["LoRA r=8 on q, v"][2] == (None, "\u2013")
    assert "4 cells of 81 failed" in re.sub(r"<[^>]+>", "", text)


def test_one_method_one_task_one_seed_and_nothing_at_all() -> None:
    one = [r for r in made.rows() if (r["method"], r["task"], r["seed"]) == ("linear probe", "fashion", 0)]
    shown = Page(page.render(one, baseline="linear probe"))
    assert set(shown.tables) == {"overview", "tasks", "images", "settings", "cells"}
    two = [r for r in made.rows() if r["method"] in METHODS[:2] and (r["task"], r["seed"]) == ("fashion", 0)]
    shown = Page(page.render(two, baseline="linear probe"))
    assert shown.body("differences")["VPT-deep"][1] == (None, "one pair")
    assert shown.body("differences")["VPT-deep"][2] == (None, "one task")
    text = page.render([made._failed("linear probe", "fashion", 0)], baseline="linear probe")
    assert "No method has results on every task." in text
    assert set(Page(text).tables) == {"overview", "tasks", "images", "settings", "cells"}


def test_chosen_settings_and_what_diverged_are_told(shown: Page) -> None:
    cells = shown.tables["selections"][1:]
    assert [row[1][1] for row in cells] == TASKS
    assert (
        cells[0][2][1]
        == "training.lr 0.003: 78.0; training.lr 0.01: 82.0; training.lr 0.03: 81.0; training.lr 1.0: diverged"
    )
    settings = shown.body("settings")
    assert settings["VPT-deep"][0][1] == "methods vpt(prompts=10); training.lr 0.01 or 0.03"
    assert settings["linear probe"][0][1] == "methods vpt(prompts=10, deep=False); training.lr 0.001"
    assert "epochs" not in settings["VPT-deep"][0][1], "what is the same everywhere stands elsewhere"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.031, "+3.1"), (-0.031, "\u22123.1"), (-0.0001, "0.0"), (None, "\u2013")],
)
def test_differences_are_printed_with_their_sign(value: float | None, text: str) -> None:
    assert page.points(value) == text


def test_small_models_keep_their_figures() -> None:
    assert [page.giga(v) for v in (17.5625, 0.80594, 0.000275, None)] == ["17.562", "0.806", "0.000275", "\u2013"]
