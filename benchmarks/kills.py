"""Kills at random moments: what is lost of a run, a search, a comparison or a saved adapter when its process is killed.

    python benchmarks/kills.py              # 100 + 80 + 30 kills of runs, 500 of save_pretrained; about half an hour
    python benchmarks/kills.py --training 3 --search 3 --comparison 0 --saving 20

A run is begun in a process of its own, killed (SIGKILL) after a time drawn evenly from zero to what the whole takes, and gone on
with until an attempt ends by itself; then the next one begins, until there were as many kills as asked for. Its numbers, its
history and its tensors must be those of the same run that nobody killed, else it counts as lost. A save writes one of two
adapters over the other, again and again, until it is killed: every fourth time at any moment of `save_pretrained`, which mostly
counts its cost, else while its files are written. The folder must then hold one of the two, whole. Processes are forked from one
that has imported everything, so that nearly all moments lie in the work and not in its imports.

One row of JSON for each kind goes to benchmarks/results/kills.jsonl. Any loss ends the benchmark with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rows
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification
from transformers.utils import logging

import gossamer as gm
from gossamer import storage
from gossamer.comparison.settings import Comparison
from gossamer.comparison.sweep import compare
from gossamer.runs.run import Data, Images, Model, Run, Search, Training
from gossamer.searching.run import search_run
from gossamer.training.train import train

RESULTS = Path(__file__).parent / "results" / "kills.jsonl"
SEED = 0
COLOURS = {"red": (220, 40, 40), "blue": (40, 40, 220)}
CLOCK = ("seconds", "latency", "step_m", "hardware", "date", "peak")  # what no two runs share
PROMPTS = (3001, 4002)  # of the two adapters, so that a mixture of both would not fit together


def model_in(folder: Path) -> Path:
    """A ViT of 4 blocks, width 24, random, in the Hugging Face layout."""
    torch.manual_seed(SEED)
    logging.disable_progress_bar()
    sizes = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 40}
    config = ViTConfig(**sizes, image_size=16, patch_size=4, initializer_range=0.2, num_labels=2)
    ViTForImageClassification(config).save_pretrained(folder)
    return folder


def images_in(folder: Path) -> Path:
    """Images of two colours, train/COLOUR/n.png and test/COLOUR/n.png, each a little different."""
    draw = random.Random(SEED)
    for split, count in (("train", 48), ("test", 12)):
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                noisy = tuple(max(0, min(255, c + draw.randrange(-40, 40))) for c in colour)
                Image.new("RGB", (16, 16), noisy).save(folder / split / name / f"{i:02}.png")
    return folder


def run_of(home: Path, output: Path, method: dict[str, Any], **settings: Any) -> Run:
    """A run on these images."""
    return Run(
        model=Model(name=str(home / "model")),
        data=Data(name=str(home / "images")),
        images=Images(size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        methods=[method],
        output=str(output),
        **settings,
    )


def trains(home: Path, output: Path) -> None:
    """A run of six epochs, with dropout: the state of the generators matters too."""
    settings = Training(epochs=6, lr=0.03, batch=16)
    train(run_of(home, output, {"method": "vpt", "prompts": 4, "dropout": 0.2}, training=settings), resume=True)


def searches(home: Path, output: Path) -> None:
    """A search for the layer that DAS skips."""
    method = {"method": "das", "skip": 1, "rank": 4, "form": "router", "dropout": 0.1}
    settings = Search(epochs=4, hold_out=0.3, checkpoint=2)
    search_run(run_of(home, output, method, search=settings, training=Training(batch=8)), resume=True)


def compares(home: Path, output: Path) -> None:
    """A comparison of two methods, with two seeds."""
    compare(
        Comparison(
            run={
                "model": {"name": str(home / "model")},
                "images": {"size": 16, "mean": [0.5] * 3, "std": [0.5] * 3},
                "training": {"epochs": 3, "lr": 0.03, "batch": 16},
            },
            methods={
                "VPT": {"methods": [{"method": "vpt", "prompts": 3, "dropout": 0.2}]},
                "LoRA": {"methods": [{"method": "peft", "peft_type": "LORA", "r": 3}]},
            },
            tasks={"colours": {"data": {"name": str(home / "images")}}},
            seeds=[0, 3],
            output=str(output),
        )
    )


KINDS: dict[str, Callable[[Path, Path], None]] = {"training": trains, "search": searches, "comparison": compares}


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run, a search or a comparison left and that does not depend on the clock or its place."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name in ("metrics.json", "result.json", "adapter_model.safetensors"):
            found[name] = path.read_bytes() if path.suffix != ".json" else _timeless(json.loads(path.read_text()))
        elif path.name in ("history.jsonl", "rows.jsonl"):
            found[name] = [_timeless(json.loads(line)) for line in path.read_text().splitlines()]
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if not any(mark in k for mark in CLOCK) and k != "protocol"}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def forked(work: Callable[[], None], log: Path) -> int:
    """Number of a process that does the work, in a group of its own; it ends with 0, or with 1 and a traceback in `log`."""
    number = os.fork()
    if number:
        os.setpgid(number, number)
        return number
    code = 1
    try:
        with log.open("a") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def killed(number: int, after: float, since: Callable[[], bool] = lambda: True) -> bool:
    """Whether a process was killed so many seconds after something was so, and not over by then.

    Raises:
        RuntimeError: it ended by an error of its own.
    """
    while not since():
        pass
    limit = time.monotonic() + after
    while True:
        ended, status = os.waitpid(number, os.WNOHANG)
        if ended:
            if status:
                raise RuntimeError(f"the process ended with status {status}")
            return False
        left = limit - time.monotonic()
        if left <= 0:
            break
        time.sleep(min(left, 0.002))
    os.killpg(number, signal.SIGKILL)
    os.waitpid(number, 0)
    return True


def interrupted(kind: str, wanted: int, home: Path, moments: random.Random) -> dict[str, Any]:
    """Kills of one kind of run, until there were enough, and what they cost."""
    folder, log, work = home / kind, home / f"{kind}.log", KINDS[kind]
    began = time.monotonic()
    if killed(forked(lambda: work(home, folder / "whole"), log), 600):
        raise SystemExit(f"{kind}: an undisturbed run takes over ten minutes")
    whole, expected = time.monotonic() - began, outcome(folder / "whole")
    kills, lives, lost = 0, 0, []
    while kills < wanted:
        torn, attempts = folder / f"torn-{lives}", 0
        try:
            while killed(forked(lambda to=torn: work(home, to), log), moments.uniform(0, whole)):
                kills, attempts = kills + 1, attempts + 1
            if outcome(torn) != expected:
                lost.append(f"{torn.name}: other numbers after {attempts} kills")
        except RuntimeError as error:
            lost.append(f"{torn.name}: {error} after {attempts} kills")
        lives += 1
        print(f"{kind}: {kills} kills, {lives} runs, {len(lost)} lost", flush=True)
    return {"kind": kind, "kills": kills, "runs": lives, "lost": lost, "whole_seconds": round(whole, 2)}


def saves(home: Path, wanted: int, moments: random.Random) -> dict[str, Any]:
    """Kills of a process that saves two adapters over each other."""
    backbone = ViTForImageClassification.from_pretrained(home / "model")
    folder, log, adapters = home / "saved", home / "saving.log", []
    for prompts in PROMPTS:
        adapters.append(gm.adapt(backbone, gm.VPT(prompts=prompts)))
        adapters[-1].detach()
    expected = []
    for adapter in adapters:
        adapter.attach().save_pretrained(folder)
        expected.append({n: t.clone() for n, t in adapter.state_dict().items()})
    began = time.monotonic()
    adapter.save_pretrained(folder)
    each = time.monotonic() - began
    config, tensors = storage.read(folder)
    began = time.monotonic()
    storage.write(folder, config, tensors, "")
    writing = time.monotonic() - began

    def begun() -> bool:
        return any(name.startswith(".gossamer-saving-") for name in os.listdir(folder))

    def again_and_again() -> None:
        while True:
            for one in adapters:
                one.attach().save_pretrained(folder)

    inside, lost, met = 0, [], set()
    for kill in range(wanted):
        anywhere = kill % 4 == 0
        storage.write(folder, *storage.read(folder), "")  # clears what the kill before left
        after = moments.uniform(0, 4 * each) if anywhere else moments.uniform(0, writing / 4)
        killed(forked(again_and_again, log), after, (lambda: True) if anywhere else begun)
        inside += begun()
        try:
            found = gm.load(folder, backbone).state_dict()
            fits = [i for i, e in enumerate(expected) if e.keys() == found.keys() and _equal(e, found)]
            met |= set(fits)
            if not fits:
                lost.append(f"kill {kill}: neither adapter")
        except gm.AdapterError as error:
            lost.append(f"kill {kill}: {error}")
        if (kill + 1) % 50 == 0:
            print(f"saving: {kill + 1} kills, {inside} while files were written, {len(lost)} lost", flush=True)
    return {
        "kind": "saving", "kills": wanted, "while_writing": inside, "adapters_met": len(met), "lost": lost,
        "whole_seconds": round(each, 3),
    }  # fmt: skip


def _equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind, count in {"training": 100, "search": 80, "comparison": 30, "saving": 500}.items():
        parser.add_argument(f"--{kind}", type=int, default=count, help="kills of this kind")
    parser.add_argument("--seed", type=int, default=SEED, help="of the moments")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)  # a process that has computed with several cannot be forked
    moments, found = random.Random(options.seed), []
    with tempfile.TemporaryDirectory() as home:
        model_in(Path(home, "model"))
        images_in(Path(home, "images"))
        for kind, wanted in [(k, getattr(options, k)) for k in (*KINDS, "saving")]:
            if wanted:
                result = (
                    saves(Path(home), wanted, moments)
                    if kind == "saving"
                    else interrupted(kind, wanted, Path(home), moments)
                )
                found.append({**result, **rows.describe(options.seed)})
                rows.append(options.out, found[-1:])
    print(rows.table(found, {"kind": "{kind}", "kills": "{kills}", "lost": "{lost}"}))
    if any(row["lost"] for row in found):
        raise SystemExit("something was lost")


if __name__ == "__main__":
    main()
