"""What `make install` installs: the lock against pyproject.toml, and installs that start at the same time."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements" / "lock.txt"
ALONE = [sys.executable, str(ROOT / "requirements" / "alone.py")]
PYTHONS = ["3.10.13", "3.11.7", "3.12.1", "3.13.0"]
ENTRY = re.compile(r"^(\S.*?)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.M)


def asked() -> list[Requirement]:
    """Every requirement of pyproject.toml that a development environment has."""
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    found = [Requirement(line) for line in [*project["dependencies"], *extras["dev"]]]
    own = [r for r in found if r.name == "gossamer"]
    assert len(own) == 1
    return [r for r in found if r not in own] + [Requirement(line) for extra in own[0].extras for line in extras[extra]]


def locked(python: str) -> dict[str, str]:
    """Name -> version of what the lock gives a Python on Linux."""
    here = {"python_full_version": python, "python_version": python.rpartition(".")[0], "sys_platform": "linux"}
    entries = [Requirement(text) for text, _ in ENTRY.findall(LOCK.read_text(encoding="utf-8"))]
    fitting = [e for e in entries if e.marker is None or e.marker.evaluate(here)]
    assert len({e.name for e in fitting}) == len(fitting)
    return {e.name: str(e.specifier).removeprefix("==") for e in fitting}


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_holds_what_pyproject_asks_for(python: str) -> None:
    """Where this fails, pyproject.toml was changed without `make lock`."""
    found = locked(python)
    for requirement in asked():
        name = requirement.name.replace("_", "-")
        assert requirement.specifier.contains(found[name]), f"{requirement} and {name} {found[name]}"


def test_every_line_of_the_lock_is_pinned_and_hashed() -> None:
    text = LOCK.read_text(encoding="utf-8")
    entries = ENTRY.findall(text)
    assert len(entries) > 100
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.+]+( ; .+)?", entry) for entry, _ in entries)
    left = [line for line in ENTRY.sub("", text).splitlines() if line and not line.lstrip().startswith("#")]
    assert left == []
    assert "://" not in text


def start(held: Path, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*ALONE, str(held), *command], stdout=subprocess.PIPE, text=True)


def test_what_starts_at_the_same_time_runs_one_after_the_other(tmp_path: Path) -> None:
    held, log = tmp_path / "held", tmp_path / "log"
    held.touch()
    script = f"import time; f = open({str(log)!r}, 'a'); f.write('<'); f.flush(); time.sleep(0.3); f.write('>')"
    for process in [start(held, sys.executable, "-c", script) for _ in range(3)]:
        process.communicate(timeout=60)
    assert log.read_text() == "<><><>"


def test_who_is_killed_holds_nothing(tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.touch()
    first = start(held, sys.executable, "-c", "print('on', flush=True); import time; time.sleep(600)")
    assert first.stdout is not None
    assert first.stdout.readline() == "on\n"
    second = start(held, "false")
    assert second.stdout is not None
    assert second.stdout.readline() == f"waiting for another `make` that holds {held}\n"
    first.kill()
    first.communicate(timeout=60)
    second.communicate(timeout=60)
    assert second.returncode == 1  # that of the command
