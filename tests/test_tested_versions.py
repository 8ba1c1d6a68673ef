"""Versions that were tested: the warning outside of them."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import gossamer as gm
from gossamer import tested_versions

from .contract.table import BACKBONES

REQUIRED = [
    "torch<2.16,>=2.11",
    "pillow>=10",
    "transformers<5.25,>=5.20",
    'timm<1.1,>=1.0.25; extra == "timm"',
    'ruff==0.17.6; extra == "dev"',
]
HERE = {"torch": "2.15.0+cu132", "transformers": "5.20.0", "timm": "1.0.99", "pillow": "1.0", "ruff": "0.1.0"}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The installed versions, for a test to change; nothing was warned of yet."""
    installed = dict(HERE)

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "requires", lambda name: REQUIRED)
    monkeypatch.setattr(importlib.metadata, "version", version)
    tested_versions.warn_outside.cache_clear()
    yield installed
    tested_versions.warn_outside.cache_clear()


def test_what_was_tested_is_not_warned_of(here: dict[str, str]) -> None:
    assert tested_versions.outside() == []
    tested_versions.warn_outside()


@pytest.mark.parametrize(
    ("package", "version", "said"),
    [
        ("transformers", "5.25.0", "transformers<5.25,>=5.20, and this is transformers 5.25.0"),
        ("transformers", "5.19.4", "transformers<5.25,>=5.20, and this is transformers 5.19.4"),
        ("torch", "2.16.0.dev20261201+cpu", "torch<2.16,>=2.11, and this is torch 2.16.0.dev20261201+cpu"),
        ("timm", "1.0.24", "timm<1.1,>=1.0.25, and this is timm 1.0.24"),
    ],
)
def test_each_side_of_a_bound_is_outside(here: dict[str, str], package: str, version: str, said: str) -> None:
    here[package] = version
    assert tested_versions.outside() == [said]


def test_an_extra_that_is_not_installed_is_not_outside(here: dict[str, str]) -> None:
    del here["timm"]
    assert tested_versions.outside() == []


def test_adapt_says_once_what_was_tested(here: dict[str, str]) -> None:
    here |= {"transformers": "6.0.0", "torch": "3.0.0"}
    said = (
        r"^Gossamer was tested with torch<2\.16,>=2\.11, and this is torch 3\.0\.0; "
        r"with transformers<5\.25,>=5\.20, and this is transformers 6\.0\.0\. .* install a tested version"
    )
    with pytest.warns(UserWarning, match=said) as caught:
        gm.adapt(BACKBONES["vit"].model(), gm.VPT(prompts=2))
    assert [Path(w.filename).name for w in caught] == [Path(__file__).name]  # it points at who called
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gm.adapt(BACKBONES["vit"].model(), gm.VPT(prompts=2))


def test_load_says_it_too(here: dict[str, str], tmp_path: Path) -> None:
    gm.adapt(BACKBONES["vit"].model(), gm.VPT(prompts=2)).save_pretrained(tmp_path)
    here["transformers"] = "6.0.0"
    tested_versions.warn_outside.cache_clear()
    with pytest.warns(UserWarning, match=r"this is transformers 6\.0\.0"):
        gm.load(tmp_path, backbone=BACKBONES["vit"].model())


def test_without_an_installation_nothing_is_known_and_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    tested_versions.warn_outside.cache_clear()
    with pytest.warns(UserWarning, match="it is not installed"):
        tested_versions.warn_outside()
    tested_versions.warn_outside.cache_clear()


def test_import_works_outside() -> None:
    """Nothing is checked, or even imported, by `import gossamer`."""
    script = "import gossamer, sys; assert 'gossamer.tested_versions' not in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_our_own_bounds_are_those_of_the_four() -> None:
    ours = Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8")
    assert sorted(re.findall(r'"(\w+)>=[\d.]+,<[\d.]+"', ours)) == [
        "diffusers",
        "peft",
        "timm",
        "torch",
        "transformers",
    ]
