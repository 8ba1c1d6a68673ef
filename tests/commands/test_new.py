"""`gossamer new`: what it writes into a checkout is tidy, imports, and passes the contract as it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gossamer as gm
from gossamer import cli
from gossamer.commands.new import class_of

ROOT = Path(gm.__file__).parents[2]
COPIED = ("src", "docs", "pyproject.toml", "tests/__init__.py", "tests/conftest.py", "tests/twins.py", "tests/hand.py")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the parts of this checkout that a new method or family touches, with one of each."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in (*COPIED, "tests/contract", "tests/methods/__init__.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    assert cli.main(["new", "method", "slow_gates", "--checkout", str(folder)]) == 0
    assert cli.main(["new", "family", "vit_msn", "--class", "ViTMSNModel", "--checkout", str(folder)]) == 0
    return folder


def python(checkout: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_is_written_is_tidy(checkout: Path) -> None:
    for check in (["check"], ["format", "--check"]):
        python(checkout, "-m", "ruff", *check, ".")


def test_a_new_method_and_a_new_family_keep_every_promise(checkout: Path) -> None:
    """The method on the backbones that meet all, and the family with a method of each kind; `-k` has the names of their rows."""
    chosen = "(slow-gates and (vit- or bert- or llama-)) or (vit-msn and (vpt or houlsby or lora))"
    tests = ["tests/contract/test_contract.py", "tests/methods/test_slow_gates.py"]
    out = python(checkout, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", *tests, "-k", chosen)
    assert "[100%]" in out
    listed = python(checkout, "-m", "pytest", "-p", "no:xdist", "--collect-only", "-q", *tests, "-k", chosen)
    assert int(listed.split(": ")[-1]) >= 1
    assert "tests/methods/test_slow_gates.py: 3" in listed


def test_a_new_method_is_known_by_its_one_file(checkout: Path) -> None:
    code = "import gossamer as gm; print(gm.SlowGates(scale=2.0), gm.METHODS['slow_gates'] is gm.SlowGates)"
    assert python(checkout, "-c", code) == "SlowGates(scale=2.0, blocks=None, stack=None) True\n"
    page = (checkout / "docs" / "slow_gates.md").read_text()
    python(checkout, "-c", page.split("```python\n")[1].split("```")[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["method", "vpt"], "src/gossamer/methods/vpt.py is there already; choose another name"),
        (["method", "Gates"], "'Gates' and 'Gates' are to be names of a file and a class"),
        (["method", "two words"], "letters, digits and _"),
        (["family", "vit_msn"], "a family needs a model to be read: --class ViTMSNModel"),
        (
            ["method", "gates", "--checkout", "nowhere"],
            "nowhere is no checkout of Gossamer: it has no tests/contract/methods.py",
        ),
    ],
)
def test_what_cannot_be_written(
    arguments: list[str],
    message: str,
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(checkout)
    before = sorted(checkout.rglob("*.py"))
    assert cli.main(["new", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert sorted(checkout.rglob("*.py")) == before


def test_names_of_classes() -> None:
    assert [class_of(name) for name in ("ssf", "linear_probe", "adapter")] == ["SSF", "LinearProbe", "Adapter"]
