"""`gossamer serve` under load on this machine: latency, throughput and memory with 1 to 64 clients that ask without a pause.

    python benchmarks/serve.py                          # DINOv2-S, 8 adapters, ten seconds for each number of clients
    python benchmarks/serve.py --clients 16 --seconds 60
    python benchmarks/serve.py --tiny                   # seconds: does it run?

The server is a process of its own over random weights; clients are threads of this one, each with a connection that stays, which
send one JPEG of 256 x 256 to the adapters in turn. One row of JSON for each number of clients goes to
benchmarks/results/serve.jsonl: requests a second, median and 99th percentile of seconds to an answer, answers that were not 200,
mean images in a batch, and the most memory that the server's process had so far.
"""

from __future__ import annotations

import argparse
import http.client
import io
import itertools
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import rows
import torch
from peft import LoraConfig
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

import gossamer as gm
from gossamer.data import Preprocessing

RESULTS = Path(__file__).parent / "results" / "serve.jsonl"
SEED, LABELS = 0, 10
CLIENTS = (1, 2, 4, 8, 16, 32, 64)


def made(root: Path, count: int, *, tiny: bool) -> list[str]:
    """Folders of adapters on one backbone, prompts and low-rank ones in turn."""
    torch.manual_seed(SEED)
    small: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
    sizes = {**small, "image_size": 28} if tiny else {"hidden_size": 384, "num_attention_heads": 6, "image_size": 224}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(root / "base")
    folders = []
    for number in range(count):
        method = gm.VPT(prompts=10) if number % 2 else LoraConfig(r=8, target_modules=["q", "v"])
        adapted = gm.adapt(gm.zoo.load(str(root / "base")), method, num_labels=LABELS)
        labels = [f"class {i}" for i in range(LABELS)]
        prepared = Preprocessing(size=sizes["image_size"]).to_dict()
        adapted.metadata = {"task": "image-classification", "labels": labels, "preprocessing": prepared}
        adapted.save_pretrained(root / f"task{number}")
        folders.append(str(root / f"task{number}"))
    return folders


def started(folders: list[str], threads: int, log: Path) -> tuple[subprocess.Popen[bytes], int]:
    """The server's process and its port."""
    command = [sys.executable, "-m", "gossamer", "serve", "--port", "0", *folders]
    with log.open("w") as file:
        process = subprocess.Popen(command, stderr=file, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    while process.poll() is None:
        found = re.search(r"running on http://[^:]+:(\d+)", log.read_text())
        if found:
            return process, int(found[1])
        time.sleep(0.05)
    raise SystemExit(f"the server did not start: {log.read_text()}")


class Client(threading.Thread):
    """Asks without a pause until the end."""

    def __init__(self, port: int, names: list[str], first: int, image: bytes, end: float):
        super().__init__()
        self.port, self.image, self.end = port, image, end
        self.names = itertools.cycle(names[first % len(names) :] + names[: first % len(names)])
        self.seconds: list[float] = []
        self.others = 0

    def run(self) -> None:
        """The requests."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        while (began := time.perf_counter()) < self.end:
            connection.request("POST", f"/adapters/{next(self.names)}/predict", self.image)
            response = connection.getresponse()
            response.read()
            self.seconds.append(time.perf_counter() - began)
            self.others += response.status != 200
        connection.close()


def batches(port: int) -> tuple[float, float]:
    """Images and batches so far."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return float(found["gossamer_batch_images_sum"]), float(found["gossamer_batch_images_count"])


def most_memory(process: subprocess.Popen[bytes]) -> int | None:
    """Most bytes that a process had in memory; None where the system does not say."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return None
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024  # type: ignore[index]


def load(process: subprocess.Popen[bytes], port: int, names: list[str], clients: int, seconds: float) -> dict[str, Any]:
    """A row of one number of clients."""
    file = io.BytesIO()
    noise = torch.randint(0, 256, (256, 256, 3), generator=torch.Generator().manual_seed(SEED), dtype=torch.uint8)
    Image.fromarray(noise.numpy()).save(file, "JPEG")
    before, began = batches(port), time.perf_counter()
    some = [Client(port, names, i, file.getvalue(), began + seconds) for i in range(clients)]
    for client in some:
        client.start()
    for client in some:
        client.join()
    took, after = time.perf_counter() - began, batches(port)
    times = sorted(t for client in some for t in client.seconds)
    return {
        "clients": clients, "adapters": len(names), "requests": len(times), "per_second": len(times) / took,
        "p50_seconds": statistics.median(times), "p99_seconds": times[int(0.99 * (len(times) - 1))],
        "not_ok": sum(client.others for client in some),
        "images_in_a_batch": (after[0] - before[0]) / (after[1] - before[1]), "most_bytes": most_memory(process),
    }  # fmt: skip


def main() -> None:
    """Starts the server, asks it, prints a table and appends rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", nargs="+", type=int, default=CLIENTS)
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the server's torch")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    how = rows.describe(SEED)
    with tempfile.TemporaryDirectory() as folder:
        folders = made(Path(folder), options.adapters, tiny=options.tiny)
        process, port = started(folders, options.threads, Path(folder) / "log")
        try:
            names = [Path(f).name for f in folders]
            load(process, port, names, 1, min(1.0, options.seconds))  # warm
            found = [load(process, port, names, clients, options.seconds) for clients in options.clients]
        finally:
            process.terminate()
            process.wait(60)
    rows.append(options.results, [row | how for row in found])
    columns = {
        "clients": "{clients}", "requests/s": "{per_second:.1f}", "p50 s": "{p50_seconds:.4f}", "p99 s": "{p99_seconds:.4f}",
        "in a batch": "{images_in_a_batch:.1f}", "not ok": "{not_ok}", "most bytes": "{most_bytes}",
    }  # fmt: skip
    print(rows.table(found, columns))


if __name__ == "__main__":
    main()
