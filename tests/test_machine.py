"""Whether the machine has bfloat16, and what runs make of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from gossamer.commands import demo
from gossamer.cost import machine
from gossamer.runs import run_file
from gossamer.runs.run import Data, Model, Run, Training

SETTINGS = Path(__file__).parents[1]
PROCESSORS = {  # what torch tells of some -> what has bfloat16 there
    "Sapphire Rapids": ({"amx_bf16": True, "avx512_bf16": True, "avx2": True}, ["amx_bf16", "avx512_bf16"]),
    "Zen 4": ({"avx512_bf16": True, "avx512_f": True, "amx_bf16": False}, ["avx512_bf16"]),
    "Skylake": ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, []),
    "Haswell": ({"avx2": True}, []),
    "Graviton 3": ({"neon": True, "bf16": True, "sve_bf16": True}, ["bf16", "sve_bf16"]),
    "Graviton 2": ({"neon": True, "bf16": False}, []),
}


def on(processor: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    known, has = PROCESSORS[processor]
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    return has


def gpu(kind: str, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device(kind))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native and not including_emulation)


@pytest.mark.parametrize("processor", PROCESSORS)
def test_a_processor_has_bfloat16_or_emulates_it(processor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    has = on(processor, monkeypatch)
    assert machine.bfloat16() == has
    assert machine.hardware()["bfloat16"] == (", ".join(has) or None)
    assert Training(bf16="auto").bf16 is Training(bf16="auto").bfloat16 is bool(has)
    assert Training().bf16 is False
    assert Training(bf16=True).bf16 is True  # who asks for it gets it


@pytest.mark.parametrize(("kind", "native", "has"), [("cuda", True, ["cuda"]), ("cuda", False, []), ("mps", False, [])])
def test_where_there_is_an_accelerator_it_decides(
    kind: str, native: bool, has: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on("Zen 4", monkeypatch)
    gpu(kind, native, monkeypatch)
    assert machine.bfloat16() == has


def test_runs_say_what_they_compute_in_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    on("Zen 4", monkeypatch)
    assert machine.precision(True) == "computing in bfloat16; this machine has bfloat16 (avx512_bf16)"
    assert machine.precision(False) == "computing in float32; this machine has bfloat16 (avx512_bf16)"
    on("Haswell", monkeypatch)
    assert machine.precision(True) == (
        "computing in bfloat16, which this machine only emulates: training.bf16=false is faster"
    )
    assert machine.precision(False) == "computing in float32; this machine only emulates bfloat16"


@pytest.mark.parametrize(("processor", "said"), [("Zen 4", "bfloat16"), ("Haswell", "float32")])
def test_the_demo_takes_what_the_machine_has(processor: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on(processor, monkeypatch)
    run = demo.settings("vpt", "runs/demo")
    assert run.training.bf16 is (said == "bfloat16")
    assert f"computing in {said};" in demo._protocol(run, {"train": 1000, "test": 1000})


@pytest.mark.parametrize("processor", ["Zen 4", "Haswell"])
def test_the_folder_of_a_run_says_which_it_was(processor: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """So a run that was begun in one cannot go on in the other."""
    has = on(processor, monkeypatch)
    run = Run(model=Model(name="m"), data=Data(name="d"), methods=[{"method": "linear_probe"}], output=str(tmp_path))
    run = dataclasses.replace(run, training=Training(bf16="auto"))
    (tmp_path / "run.yaml").write_text(run_file.to_yaml(run), encoding="utf-8")
    assert yaml.safe_load((tmp_path / "run.yaml").read_text())["training"]["bf16"] is bool(has)
    on("Haswell" if has else "Zen 4", monkeypatch)
    assert run_file.read(tmp_path).training.bf16 is bool(has)


def test_no_run_file_of_ours_asks_for_bfloat16_where_it_is_emulated() -> None:
    def asked(values: Any) -> list[Any]:
        if isinstance(values, list):
            return [found for value in values for found in asked(value)]
        if not isinstance(values, dict):
            return []
        return [v for k, v in values.items() if k.endswith("bf16")] + asked(list(values.values()))

    files = [path for folder in ("benchmarks", "examples") for path in (SETTINGS / folder).glob("*.yaml")]
    found = [value for path in files for value in asked(yaml.safe_load(path.read_text(encoding="utf-8")))]
    assert set(found) == {"auto"}
