"""Authors' numbers: every case of a folder through Gossamer, in float64, to 1e-5.

    pytest tests/reference --reference-dir DIR -s

prints case, tensor and error of every comparison and lists the cases that no file of `cases/` covers yet.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .cases import Case, runner

TOLERANCE = 1e-5


def legends(config: pytest.Config) -> list[Path]:
    folder: Path = config.getoption("--reference-dir")
    found = sorted(p for p in folder.glob("*.json") if p.with_suffix(".safetensors").exists())
    if not found:
        raise pytest.UsageError(f"--reference-dir {folder}: no NAME.json with a NAME.safetensors beside it")
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "legend" in metafunc.fixturenames:
        covered = [p for p in legends(metafunc.config) if runner(Case.read(p).name)]
        metafunc.parametrize("legend", covered, ids=[p.stem for p in covered])


@pytest.mark.usefixtures("in_float64")
def test_case(legend: Path) -> None:
    case = Case.read(legend)
    run = runner(case.name)
    assert run is not None
    checks = list(run(case))
    assert checks, f"{case.name} compares nothing"
    for check in checks:
        print(f"{legend.stem:24} {check.tensor:36} {check.error:.1e}")
    wrong = {c.tensor: c.error for c in checks if not c.error <= TOLERANCE}
    assert not wrong, f"{case.name}: {wrong}"


def test_what_is_not_covered_is_listed(pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]) -> None:
    names = {Case.read(p).name for p in legends(pytestconfig)}
    missing = sorted(name for name in names if runner(name) is None)
    with capsys.disabled():
        if missing:
            print(f"\nreference cases not covered yet ({len(missing)}): {', '.join(missing)}")
    assert len(missing) < len(names), "no case of this folder is covered"
