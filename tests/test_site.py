"""The documentation site: it builds strictly and loads nothing from elsewhere, and what it makes from the source is all there."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import gossamer as gm

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
METHOD_PAGES = (
    *("vpt", "spt", "cvpt", "pc", "ssf", "baselines", "clip", "segmentation"),
    *("das", "tome", "evit", "apt", "meter", "dvp", "memvp"),
)
pytest.importorskip("mkdocs", reason="the site is built with the extra docs")


def script(name: str) -> ModuleType:
    """A script of the folder docs."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site; strict, so that a link to a page, a picture or a heading that is not there ends the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    said = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=False
    )
    assert (said.returncode, said.stderr) == (0, "")
    return folder


@pytest.mark.slow
def test_a_browser_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for tag in re.findall(r"<(?:script|link|img|iframe|source|video|object|embed)\b[^>]*>", text):
            assert not re.search(r"(?:src|href|data|srcset)=[\"']?(?:https?:)?//", tag), (page.name, tag)
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", style.read_text(encoding="utf-8")), style.name


def test_pages_hold_what_the_source_says(site: Path) -> None:
    errors, api = (site / "errors.html").read_text(encoding="utf-8"), (site / "api.html").read_text(encoding="utf-8")
    assert "no method given; LinearProbe() trains the head alone" in errors
    assert "num_labels=..." in errors
    for name in gm.__all__:
        assert name in ("__version__", "METHODS") or re.search(rf'id="gossamer\.[\w.]*\b{name}"', api), name
    assert 'id="gossamer.condensation.condense.condense"' in api, "the function, not the file of its name"
    assert "2203.12119" in (site / "citing.html").read_text(encoding="utf-8")
    start = re.sub("<[^>]+>", "", (site / "index.html").read_text(encoding="utf-8"))
    assert "gossamer init photographs" in start, "from the README"


def test_messages_are_read_in_every_shape_in_which_they_are_raised() -> None:
    text = """
def f(x, known):
    if x: raise UserError(f"no part {x}: there are {', '.join(known)}")
    message = "said " + f"in two parts, {x}"
    if known: raise errors.Missing(message)
    _require(x > 0, f"x must be above 0, got {x}")
    raise ValueError("a bug of ours is not in the list")
    raise UserError(x)
"""
    found = sorted(script("building").messages_of(ast.parse(text), {"UserError", "Missing"}))
    assert found == ["no part …: there are …", "said in two parts, …", "x must be above 0, got …"]


def test_a_section_that_is_not_there_is_an_error() -> None:
    building = script("building")
    assert building.taken("README.md", "The whole life of an adapter").startswith("```python")
    with pytest.raises(ValueError, match="has no heading '## Nothing'"):
        building.taken("README.md", "Nothing")


def test_pictures_of_the_methods_are_those_of_their_script(tmp_path: Path) -> None:
    draw = script("draw")
    draw.main(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(made) == len(draw.PICTURES) > 14
    for name, content in made.items():
        assert (DOCS / "pictures" / name).read_bytes() == content, f"python docs/draw.py writes {name} anew"


@pytest.mark.parametrize("page", METHOD_PAGES)
def test_pages_of_methods_have_a_picture_and_say_when(page: str) -> None:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert re.search(r"!\[[^]]{20,}\]\(pictures/\w+\.svg\)", text)
    assert "\n## When to use it, what it costs\n" in text


def test_pictures_are_small() -> None:
    for path in [*DOCS.rglob("*.png"), *DOCS.rglob("*.svg")]:
        assert path.stat().st_size < 200_000, path.name
