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
from gossamer.commands.new import SKELETONS, class_of

ROOT = Path(gm.__file__).parents[2]
FOLDERS = ("src", "docs", "tests/contract")
FILES = ("README.md", "CONTRIBUTING.md", "pyproject.toml", "tests/methods/__init__.py")
MODULES = ("__init__", "conftest", "twins", "hand", "test_docs")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the parts of this checkout that a new method or family touches, with one of each."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (*FILES, *(f"tests/{module}.py" for module in MODULES)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    assert cli.main(["new", "method", "slow_gates", "--checkout", str(folder)]) == 0
    assert cli.main(["new", "family", "pixio", "--class", "PixioModel", "--checkout", str(folder)]) == 0
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


@pytest.mark.slow
def test_a_new_method_and_a_new_family_keep_every_promise(checkout: Path) -> None:
    """The method's own test, its page, and the life of some pairs of its row, and of the family's."""
    lives = [(b, "slow-gates") for b in ("vit", "llama")] + [("pixio", m) for m in ("vpt", "houlsby")]
    tests = [
        "tests/methods/test_slow_gates.py::test_the_formula",
        "tests/test_docs.py::test_python_snippets_run[slow_gates.md]",
        *(f"tests/contract/test_contract.py::test_life[{b}-{m}]" for b, m in lives),
    ]
    options = ["-p", "no:xdist", "-p", "no:cacheprovider", "-rA", "-m", "slow or not slow"]
    out = python(checkout, "-m", "pytest", *options, *tests)
    for ran in tests:
        assert f"PASSED {ran}\n" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["method", "vpt"], "src/gossamer/methods/vpt.py is there already; choose another name"),
        (["method", "Gates"], "'Gates' and 'Gates' are to be names of a file and a class"),
        (["method", "two words"], "letters, digits and _"),
        (["family", "pixio"], "a family needs a model to be read: --class PixioModel"),
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


def test_a_wheel_has_the_skeletons() -> None:
    """They are no Python files, so whoever builds it could leave them out."""
    builders = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is what builds it")
    builder = builders.WheelBuilder(str(ROOT))
    packed = {file.distribution_path for file in builder.recurse_included_files()}
    texts = {f"gossamer/commands/skeletons/{path.name}" for path in SKELETONS.iterdir()}
    assert len(texts) == 7
    assert texts <= packed
