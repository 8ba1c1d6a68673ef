"""The report in headless Chromium: it sorts, fits a phone, prints, and shows something in light and dark."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gossamer.comparison import page
from gossamer.comparison.cell import COLUMNS

from .. import chromium
from . import made

DESKTOP, PHONE = (1280, 900), (390, 844)
Matrix = tuple[tuple[float, float, float], ...]
TO_XYZ: Matrix = ((0.4125, 0.3576, 0.1804), (0.2127, 0.7152, 0.0722), (0.0193, 0.1192, 0.9503))
SEEN: tuple[Matrix, ...] = (  # everything; without green; without red (Machado et al. 2009, severity 1)
    ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium.running(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page.render(made.rows(failing=("AdaptFormer", "fashion", 1)), baseline="linear probe"))
    return path.as_uri()


@pytest.fixture
def opened(browser: Any, report: str) -> Any:
    show(browser, *DESKTOP)
    browser.get(report)
    return browser


def show(browser: Any, width: int, height: int, scheme: str = "light") -> None:
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def screenshot(browser: Any) -> Image.Image:
    found = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "format": "png"})
    return Image.open(io.BytesIO(base64.b64decode(found["data"]))).convert("RGB")


def first_cells(browser: Any, table: str) -> list[str]:
    script = (
        "return [...document.querySelectorAll(`table[data-table=${arguments[0]}] tbody th`)].map(c => c.dataset.value)"
    )
    return browser.execute_script(script, table)


def heading(browser: Any, table: str, place: int) -> Any:
    return browser.find_elements("css selector", f"table[data-table={table}] thead th")[place]


def test_the_page_loads_without_complaint_and_without_network(opened: Any, report: str) -> None:
    assert opened.get_log("browser") == []
    told = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [m["params"] for m in told if m["method"] == "Network.requestWillBeSent"]
    ours = {params["request"]["url"] for params in asked if params["documentURL"] == report}
    assert report in ours
    assert all(url == report or url.startswith("data:") for url in ours)


def test_headings_sort_by_mouse(opened: Any) -> None:
    before = first_cells(opened, "overview")
    button = heading(opened, "overview", 3).find_element("tag name", "button")
    button.click()
    parameters = {name: numbers[0] for name, numbers in made.METHODS.items()}
    assert heading(opened, "overview", 3).get_attribute("aria-sort") == "descending"
    assert [parameters[name] for name in first_cells(opened, "overview")] == sorted(parameters.values(), reverse=True)
    button.click()
    assert heading(opened, "overview", 3).get_attribute("aria-sort") == "ascending"
    assert [parameters[name] for name in first_cells(opened, "overview")] == sorted(parameters.values())
    assert opened.find_element("id", "told").get_attribute("textContent") == "Sorted by Trained parameters, ascending"
    heading(opened, "overview", 0).find_element("tag name", "button").click()
    assert first_cells(opened, "overview") == sorted(before, key=str.lower)
    assert heading(opened, "overview", 3).get_attribute("aria-sort") == "none"


def test_headings_sort_by_keyboard_and_what_has_no_value_stays_last(opened: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    opened.execute_script("arguments[0].focus()", heading(opened, "overview", 4).find_element("tag name", "button"))
    opened.switch_to.active_element.send_keys(Keys.TAB)
    step = heading(opened, "overview", 5).find_element("tag name", "button")
    assert opened.switch_to.active_element == step
    for key, order in ((Keys.ENTER, "descending"), (Keys.SPACE, "ascending")):
        step.send_keys(key)
        assert heading(opened, "overview", 5).get_attribute("aria-sort") == order
        assert first_cells(opened, "overview")[-1] == "linear probe"


def test_a_phone_scrolls_down_only(opened: Any) -> None:
    show(opened, *PHONE)
    for details in opened.find_elements("css selector", "details"):
        opened.execute_script("arguments[0].open = true", details)
    assert opened.execute_script("return document.documentElement.scrollWidth") == PHONE[0]
    wide = (
        "return [...document.querySelectorAll('.scroll')].every(d => d.clientWidth <= innerWidth && d.tabIndex === 0)"
    )
    assert opened.execute_script(wide), "tables scroll in their own frames, which the keyboard reaches"
    smallest = "return Math.min(...[...document.querySelectorAll('svg[role=img] text')].map(t => t.getBoundingClientRect().height))"
    assert opened.execute_script(smallest) > 9
    letters = """
        const own = e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
        const scale = e => e.ownerSVGElement ? e.ownerSVGElement.getScreenCTM().a : 1;
        const seen = [...document.querySelectorAll('body *')].filter(e => e.checkVisibility() && own(e));
        return Math.min(...seen.map(e => parseFloat(getComputedStyle(e).fontSize) * scale(e)))"""
    assert opened.execute_script(letters) >= 12
    assert screenshot(opened).size[0] == PHONE[0]


@pytest.mark.parametrize("screen", [DESKTOP, PHONE])
def test_what_is_pressed_is_large_enough_for_a_finger(opened: Any, screen: tuple[int, int]) -> None:
    show(opened, *screen)
    script = """return [...document.querySelectorAll('button, summary, nav a, .mark .halo')].filter(e => e.checkVisibility())
        .map(e => e.getBoundingClientRect()).map(r => Math.min(r.width, r.height))"""
    sizes = opened.execute_script(script)
    assert len(sizes) > 50
    assert min(sizes) >= 24


def test_a_tap_shows_the_values_of_a_mark(opened: Any) -> None:
    show(opened, *PHONE)
    script = """const mark = document.querySelectorAll('figure.pareto .mark')[arguments[0]].querySelector('.halo');
        mark.scrollIntoView({block: 'center', behavior: 'instant'});
        const box = mark.getBoundingClientRect();
        return [box.x + box.width / 2, box.y + box.height / 2]"""
    x, y = opened.execute_script(script, 5)
    touch = {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]}
    opened.execute_cdp_cmd("Input.dispatchTouchEvent", touch)
    opened.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    tip = opened.find_element("id", "tip")
    title = "return document.querySelectorAll('figure.pareto .mark title')[5].textContent"
    assert tip.is_displayed()
    assert tip.get_attribute("textContent") == opened.execute_script(title)
    left, right = opened.execute_script("const r = arguments[0].getBoundingClientRect(); return [r.left, r.right]", tip)
    assert 0 <= left < right <= PHONE[0]
    opened.execute_script("document.body.click()")
    assert not tip.is_displayed()


def test_an_overview_with_every_column_fits_a_desktop(browser: Any, tmp_path: Path) -> None:
    """Texts that are answered in words, with ten columns; a phone scrolls, and a shadow says so."""
    extra = {
        "balanced_accuracy": None,
        "answer_ms": 231.0,
        "answer_ratio": 1.02,
        "step_ms": 895.6,
        "step_ratio": 2.04,
        "step_mib": 1017.5,
    }
    path = tmp_path / "report.html"
    path.write_text(page.render([row | extra for row in made.rows()], baseline="linear probe"))
    widths = "const d = document.querySelector('#overview .scroll'); return [d.scrollWidth, d.clientWidth]"
    show(browser, *DESKTOP)
    browser.get(path.as_uri())
    inside, frame = browser.execute_script(widths)
    assert inside <= frame
    show(browser, *PHONE)
    inside, frame = browser.execute_script(widths)
    assert inside > frame
    shadow = "return getComputedStyle(document.querySelector('#overview .scroll')).backgroundAttachment"
    assert browser.execute_script(shadow) == "local, local, scroll, scroll"


def test_the_rows_are_saved_as_csv(opened: Any, report: str, tmp_path: Path) -> None:
    opened.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    opened.execute_script("arguments[0].click()", opened.find_element("id", "save"))
    path = tmp_path / "rows.csv"
    for _ in range(100):
        if path.is_file() and path.read_text().count("\n") > len(made.METHODS) * 9:
            break
        time.sleep(0.05)
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    rows = made.rows(failing=("AdaptFormer", "fashion", 1))
    assert list(found[0]) == list(COLUMNS)
    assert len(found) == len(rows)
    for line, row in zip(found, rows, strict=True):
        assert [line["method"], line["task"]] == [row["method"], row["task"]]
        assert line["accuracy"] == ("" if row["accuracy"] is None else str(row["accuracy"]))
        for name in ("protocol", "curve"):
            assert (json.loads(line[name]) if line[name] else None) == row[name]


def test_both_colour_schemes_have_contrast(opened: Any) -> None:
    for scheme in ("light", "dark"):
        show(opened, *DESKTOP, scheme)
        script = "const s = getComputedStyle(document.documentElement); return [s.color, s.backgroundColor]"
        ink, paper = (luminance(colour) for colour in opened.execute_script(script))
        assert (ink < paper) == (scheme == "light")
        assert contrast(ink, paper) > 10
        soft = "return getComputedStyle(document.querySelector('caption')).color"
        assert contrast(luminance(opened.execute_script(soft)), paper) > 4.5
        marks = "return [...document.querySelectorAll('.legend .symbol path')].map(p => getComputedStyle(p).fill)"
        colours = opened.execute_script(marks)
        assert all(contrast(luminance(c), paper) > 3 for c in colours)
        for a, b in itertools.combinations(sorted(set(colours)), 2):
            assert all(math.dist(lab(m, a), lab(m, b)) > 25 for m in SEEN), (scheme, a, b)
        picture = screenshot(opened)
        assert picture.size[0] in (DESKTOP[0], DESKTOP[0] - 15)
        assert len(picture.getcolors(1 << 24) or []) > 200


def linear(colour: str) -> list[float]:
    """Light of "rgb(r, g, b)"."""
    shares = [int(part) / 255 for part in colour[4:-1].split(",")]
    return [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)", as WCAG 2 defines it."""
    return sum(weight * light for weight, light in zip((0.2126, 0.7152, 0.0722), linear(colour), strict=True))


def lab(seen: Matrix, colour: str) -> tuple[float, float, float]:
    """CIE L*a*b* of what somebody sees of a colour."""
    light = [min(1.0, max(0.0, value)) for value in times(seen, linear(colour))]
    white = (0.95047, 1.0, 1.08883)
    shares = [value / whole for value, whole in zip(times(TO_XYZ, light), white, strict=True)]
    x, y, z = (s ** (1 / 3) if s > 0.008856 else 7.787 * s + 16 / 116 for s in shares)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def times(matrix: Matrix, vector: Sequence[float]) -> list[float]:
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def contrast(a: float, b: float) -> float:
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)


def test_every_picture_has_a_name_for_a_screen_reader(opened: Any) -> None:
    tree = opened.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named: dict[str, list[str]] = {}
    for node in tree:
        named.setdefault(node.get("role", {}).get("value", ""), []).append(node.get("name", {}).get("value", ""))
    assert "Accuracy against compute" in named["image"]
    assert all(named["image"])
    assert all(named["table"])
    assert {"Overview", "Differences to linear probe", "Protocol"} <= set(named["region"])
    assert any(name.startswith("Accuracy") for name in named["columnheader"])


def test_it_prints_opened_up_on_white(opened: Any, tmp_path: Path) -> None:
    show(opened, *DESKTOP, "dark")
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    opened.execute_script("dispatchEvent(new Event('beforeprint'))")
    script = "return getComputedStyle(document.documentElement).getPropertyValue('--paper').trim()"
    assert opened.execute_script(script) == "#fff"
    assert opened.execute_script("return getComputedStyle(document.querySelector('nav')).display") == "none"
    closed = "return [...document.querySelectorAll('details:not([open])')].map(d => d.closest('section').id)"
    assert opened.execute_script(closed) == ["cells"]
    printed = base64.b64decode(opened.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    assert printed.startswith(b"%PDF")
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
