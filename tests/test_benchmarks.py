"""The benchmarks run, at small sizes, and say what they promise."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"
TINY = ("--layers", "2", "--batch", "2", "--size", "32", "--repeats", "1", "--threads", "1")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Calls main() of a benchmark with arguments as on the command line; returns what it prints."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def call(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [f"{FOLDER / name}.py", *arguments])
        module: ModuleType = importlib.import_module(name)
        module.main()
        return capsys.readouterr().out

    yield call
    torch.set_num_threads(1)


@pytest.mark.slow
def test_paper_costs_agree_with_the_papers(run) -> None:
    answer = json.loads(run("paper_costs", "--json"))
    assert answer["command"] == "python benchmarks/paper_costs.py --json"
    assert set(answer) == {"rows", "command", "seed", "versions", "hardware", "commit", "date"}
    for row in answer["rows"]:
        assert set(row) == {"what", "paper", "ours", "difference", "unit", "how"}
        assert row["difference"] == pytest.approx(row["ours"] - row["paper"], abs=1e-6)
    formula = {r["paper"]: r["ours"] for r in answer["rows"] if "formula" in r["what"]}
    of_swin = (15.43, 16.29, 17.16, 19.80, 24.33)
    assert formula == pytest.approx({p: p for p in (17.56, 22.22, 26.97, 31.81, 36.74, *of_swin)}, abs=0.007)
    printed = {r["paper"]: r["ours"] for r in answer["rows"] if "printed" in r["what"]}
    assert printed == pytest.approx({p: p for p in (17.6, 22.2, 26.9, 31.8, 36.7)}, abs=0.1)
    exact = {r["what"]: r["ours"] for r in answer["rows"] if "exact" in r["what"]}
    assert max(ours for what, ours in exact.items() if "ViT-B/16" in what) <= 17.95
    coded = {r["paper"]: r["ours"] for r in answer["rows"] if "as coded" in r["what"]}
    assert coded == pytest.approx({p: p for p in (2.806, 2.967, 3.678, 4.567, 6.346)})
    folded = [r["ours"] for r in answer["rows"] if r["what"].startswith("CVPT") and "ours, beside" in r["what"]]
    assert folded == pytest.approx([0, 0.436, 2.179, 3.152, 3.515])
    condensed = [r["ours"] for r in answer["rows"] if r["what"].startswith("PC, sequence form")]
    assert condensed == pytest.approx([26.97, 20.35, 20.38], abs=0.005)
    parameters = [r for r in answer["rows"] if r["unit"] == "parameters"]
    assert {460_800, 38_400, 601_600, 92_160, 276_480, 1_916_940, 3_833_880} <= {r["ours"] for r in parameters}
    found = {r["what"]: r["ours"] for r in answer["rows"]}
    assert found["APT p=200 r=4, ViLT: added"] == 0.907
    assert found["APT p=200 r=4, METER: added"] == 2.308
    assert found["deep prompts p=200, ViLT, with queries: added"] == 5.139
    ways = [
        found[f"deep prompts p=200, METER, {way}: added"]
        for way in ("stored", "projected", "with queries", "in the table")
    ]
    assert ways == pytest.approx([2.28, 7.94, 10.77, 13.05], abs=0.005)
    assert found["deep prompts p=200, METER, in the table: saved by APT"] == pytest.approx(82.30, abs=0.02)
    of = {r["what"]: (r["paper"], r["ours"]) for r in answer["rows"] if r["unit"] == "parameters"}
    unused = {
        "the paper's sum": 24_576,
        "the authors' module 7B": 24_576 + 2 * 4096,
        "the authors' module 13B": 24_576 + 2 * 5120,
    }
    for what, (paper, ours) in of.items():
        size = "13B" if "13B" in what else "7B"
        label = what.partition(": ")[2]
        assert paper - ours == unused.get(label, unused.get(f"{label} {size}", 0)), what
    seen = {r["what"]: r["ours"] for r in answer["rows"] if "GMACs per image and text" in r["unit"]}
    assert [seen[f"DVP, BERT-base, K = {k}"] for k in (0, 6, 11)] == [1.683, 1.640, 1.605]
    assert seen["all visual tokens, BERT-base"] == pytest.approx(18.93 + 0.116, abs=0.005)
    percent = {r["what"]: r["ours"] for r in answer["rows"] if r["unit"] == "% of MACs"}
    assert percent["MemVP, LLaMA-7B, added to a token"] == 1.30
    assert percent["DVP, K = 0, saved: abstract"] == pytest.approx(91, abs=0.5)
    assert percent["DVP, K = 0, saved with the image encoder: abstract"] == pytest.approx(47, abs=0.5)
    das = {r["paper"]: r["ours"] for r in answer["rows"] if r["unit"] == "% of the bare model's MACs"}
    assert len(das) == 9
    assert das == pytest.approx({p: p for p in das}, abs=0.06)
    assert das[-11.97] == pytest.approx(-11.97, abs=0.005)
    assert {3_594_240, 5_376_384} <= {r["ours"] for r in parameters}


def test_deep_prompts_writes_a_row_for_each_form(run, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    small = ("--layers", "2", "--size", "32", "--batch", "3", "--repeats", "1", "--threads", "1", "--out", str(out))
    text = run("deep_prompts", "--prompts", "0", "5", *small)
    assert text.splitlines()[0].split()[:2] == ["prompts", "form"]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(r["prompts"], r["form"]) for r in rows] == [
        (p, f) for p in (0, 5) for f in ("bare", "lora", "exact", "sequence")
    ]
    for row in rows:
        assert row["inference_ratios"][row["form"]] == row["step_ratios"][row["form"]] == 1
        assert row["inference_seconds"] >= row["inference_fastest"] > 0
        assert row["versions"]["torch"] == torch.__version__.partition("+")[0]
        assert row["seed"] == 0
        assert row["hardware"]["threads"] == 1
        assert (row["difference"] is not None) == (row["form"] in ("exact", "sequence"))
    bare, lora, exact, sequence = rows[4:]
    assert exact["difference"]["values"] <= 1e-5
    assert exact["difference"]["gradients"] <= 1e-5
    assert lora["inference_mib"] == bare["inference_mib"] <= exact["inference_mib"] < sequence["inference_mib"]
    assert bare["step_mib"] < exact["step_mib"] < sequence["step_mib"]


def test_deep_prompts_stops_where_the_forms_differ(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = importlib.import_module("deep_prompts")
    monkeypatch.setattr(benchmark, "TOLERANCE", -1.0)
    with pytest.raises(SystemExit, match="values of the exact and the sequence form differ by"):
        run("deep_prompts", "--prompts", "2", "--layers", "1", "--size", "32", "--out", str(tmp_path / "rows.jsonl"))
    assert not (tmp_path / "rows.jsonl").exists()


@pytest.mark.slow
def test_das_latency_compares_the_bare_with_the_finished_model(run, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    small = ("--layers", "4", "--size", "32", "--batch", "2", "--repeats", "1", "--threads", "1", "--out", str(out))
    text = run("das_latency", "--skip", "0", "2", *small)
    assert text.splitlines()[0].split()[:2] == ["model", "skipped"]
    none, two = (json.loads(line) for line in out.read_text().splitlines())
    assert (none["skipped"], two["skipped"]) == (0, 2)
    assert none["macs_ratio"] > 1 > two["macs_ratio"]
    assert two["macs_saved"] == pytest.approx(1 - two["macs_ratio"], abs=1e-3)
    assert two["parameters_ratio"] < 1 < none["parameters_ratio"]
    assert two["bytes_ratio"] < 1 < none["bytes_ratio"]
    for row in (none, two):
        assert row["time_ratio"] > 0
        assert row["kept_share"] == pytest.approx((1 - row["time_ratio"]) / (1 - row["macs_ratio"]), abs=0.05)
        assert row["seed"] == 0


def test_step_times_compares_each_method_with_lora(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "rows.jsonl"
    small = ("--layers", "2", "--size", "28", "--batch", "3", "--repeats", "2", "--threads", "1", "--out", str(out))
    text = run("step_times", "--model", "dinov2-small", "--prompts", "5", *small)
    assert text.splitlines()[0].split()[:2] == ["model", "method"]
    lora, vpt, spt, cvpt = (json.loads(line) for line in out.read_text().splitlines())
    assert [r["method"] for r in (lora, vpt, spt, cvpt)] == ["lora", "vpt", "spt", "cvpt"]
    assert vpt["parameters"] == spt["parameters"] == cvpt["parameters"]
    assert vpt["parameters"] - lora["parameters"] == 2 * 5 * 384 - 2 * 2 * 16 * (384 + 384)
    for row in (lora, vpt, spt, cvpt):
        assert row["ratios"][row["method"]] == row["processor_ratios"][row["method"]] == 1
        assert row["seconds"] >= row["fastest"] > 0
        assert row["ratios"]["lora"] > 0
    assert (lora["prompts"], spt["prompts"], spt["batch"], spt["image_size"]) == (None, 5, 3, 28)
    monkeypatch.setattr(importlib.import_module("step_times"), "ENOUGH", 0.0)
    with pytest.raises(SystemExit, match=r"over 0.0 x the step of LoRA: spt with 5 prompts on dinov2-small: .*, cvpt"):
        run("step_times", "--model", "dinov2-small", "--prompts", "5", "--check", *small)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_damaged_folders_are_loaded_or_refused_and_leave_no_trace(run, tmp_path: Path) -> None:
    """A few of the 10,000 loads of docs/saving.md."""
    said = run("fuzz_folders", "--loads", "100", "--seed", "5", "--out", str(tmp_path / "rows.jsonl"))
    [row] = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert row["found"] == []
    assert row["loaded"] + row["refused"] == row["loads"] == 100
    assert min(row["loaded"], row["refused"]) > 0
    assert said.startswith("loads  loaded  refused  other  faults")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")  # peft's own way asks for it
def test_overhead_compares_ours_with_the_same_by_hand(run, tmp_path: Path) -> None:
    out = tmp_path / "overhead.jsonl"
    run("overhead", *TINY, "--out", str(out))
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["method"] for row in found] == ["probe", "vpt", "adapter", "lora", "bridge", "tome"]
    for row in found:
        assert all(
            row[f"{what}_{kind}"] > 0 for what in ("inference", "finished", "step") for kind in ("ratio", "seconds")
        )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")  # peft's own way asks for it
def test_overhead_stops_where_the_two_differ(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("overhead", *TINY, "--out", str(tmp_path / "a"))
    monkeypatch.setattr(sys.modules["overhead"], "copy", lambda ours, hand: None)
    with pytest.raises(SystemExit, match="probe: logits differ by"):
        run("overhead", *TINY, "--out", str(tmp_path / "b"))


@pytest.mark.slow
def test_the_device_benchmark_runs_to_its_end(run, tmp_path: Path) -> None:
    run("device", "--tiny", "--out", str(tmp_path / "rows.jsonl"))
    found = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    seen = {(row["group"], row["model"], row["pass"], row["compiled"], row["what"]) for row in found}
    assert ("prompts", "dinov2-small", "step", True, "exact") in seen
    assert ("das", "vit-b16", "inference", False, "skip 1") in seen
    assert ("sight", "llama-1b", "step", False, "memvp") in seen
    assert all(row["seconds"] > 0 and row["ratio"] > 0 for row in found)
    firsts = [row for row in found if row["what"] == row["against"]]
    assert {row["ratio"] for row in firsts} == {1.0}


def test_a_mixed_batch_against_other_ways(run, tmp_path: Path) -> None:
    results = tmp_path / "rows.jsonl"
    sizes = ("--models", "vit-b16", "--adapters", "2", "--batch", "5", "--repeats", "1", "--threads", "1")
    run("mixed", "--tiny", *sizes, "--results", str(results))
    found = [json.loads(line) for line in results.read_text().splitlines()]
    assert [(r["method"], r["way"]) for r in found] == [
        (method, way)
        for method, more in (("vpt", ()), ("lora", ("peft",)))
        for way in ("mixed", "one", "switched", *more, "models")
    ]
    assert all(r["adapters"] == 2 and r["seconds"] > 0 and r["throughput_against_one"] > 0 for r in found)
    weights = {(r["method"], r["way"]): r["weight_bytes"] for r in found}
    assert all(weights[method, "mixed"] < weights[method, "models"] for method in ("vpt", "lora"))


@pytest.mark.slow
def test_the_server_under_load(run, tmp_path: Path) -> None:
    results = tmp_path / "rows.jsonl"
    run("serve", "--tiny", "--clients", "1", "3", "--adapters", "2", "--seconds", "0.5", "--results", str(results))
    found = [json.loads(line) for line in results.read_text().splitlines()]
    assert [(r["clients"], r["not_ok"]) for r in found] == [(1, 0), (3, 0)]
    assert all(r["requests"] > 0 and 0 < r["p50_seconds"] <= r["p99_seconds"] for r in found)
