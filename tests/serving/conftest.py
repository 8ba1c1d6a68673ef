"""Two adapters on one tiny backbone, in folders, and the server as a process of its own."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
import uvicorn
from peft import LoraConfig
from PIL import Image

import gossamer as gm
from gossamer.data import Preprocessing
from gossamer.serving.app import LOCAL, Limits, Server, application
from gossamer.serving.catalogue import Catalogue
from gossamer.serving.stopping import Graceful

from ..contract.backbone import VISION

LABELS = {"cells": ("whole", "cracked"), "dogs": ("beagle", "husky", "poodle")}


def picture(seed: int = 0, size: tuple[int, int] = (23, 19), format: str = "PNG") -> bytes:
    """An image file of noise."""
    noise = torch.randint(
        0, 256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )
    file = io.BytesIO()
    Image.fromarray(noise.numpy()).save(file, format)
    return file.getvalue()


def saved(base: Path, folder: Path, method: Any, labels: tuple[str, ...], seed: int) -> None:
    """An adapter in a folder, with what its training would have recorded."""
    adapted = gm.adapt(gm.zoo.load(str(base)), method, num_labels=len(labels)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.trainable().values():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    prepared = Preprocessing(size=16).to_dict()
    adapted.metadata = {"task": "image-classification", "labels": list(labels), "preprocessing": prepared}
    adapted.save_pretrained(folder)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters by name, and "base", the backbone that they stand on."""
    root = tmp_path_factory.mktemp("served")
    torch.default_generator.manual_seed(0)
    tf.ViTModel(tf.ViTConfig(**VISION)).save_pretrained(root / "base")
    methods = {"cells": gm.VPT(prompts=3), "dogs": LoraConfig(r=2)}
    for seed, (name, method) in enumerate(methods.items()):
        saved(root / "base", root / name, method, LABELS[name], seed)
    return {"base": root / "base", **{name: root / name for name in methods}}


class Running:
    """A server on a free port of this machine."""

    port: int

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 60
    ) -> tuple[int, Any]:
        """Status and answer of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            text = response.read()
            kind = response.getheader("content-type", "")
            return response.status, json.loads(text) if kind.startswith("application/json") else text.decode()
        finally:
            connection.close()

    def numbers(self) -> dict[str, float]:
        """What it counts."""
        lines = [line for line in self.ask("GET", "/metrics")[1].splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


class Process(Running):
    """One that `gossamer serve` runs."""

    def __init__(self, *arguments: str):
        command = [sys.executable, "-m", "gossamer", "serve", "--port", "0", *arguments]
        source = str(Path(gm.__file__).parents[1])
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": source}
        )
        assert self.process.stderr is not None
        self.said: list[str] = []
        for line in self.process.stderr:
            self.said.append(line)
            found = re.search(r"running on http://[^:]+:(\d+)", line)
            if found:
                self.port = int(found[1])
                return
        raise AssertionError("".join(self.said))

    def stop(self) -> int:
        """Its exit code after SIGTERM."""
        self.process.terminate()
        _, rest = self.process.communicate(timeout=60)
        self.said.append(rest)
        return self.process.returncode


class Thread(Running):
    """The same application under the same uvicorn, in a thread of this process."""

    def __init__(self, folders: dict[str, Path], token: str | None = None, **limits: Any):
        self.server = Server(Catalogue(folders), Limits(**limits))
        hosts = LOCAL if token is None else ("*",)
        app = application(self.server, token=token, hosts=hosts)
        self.uvicorn = Graceful(uvicorn.Config(app, port=0, log_level="error"), self.server, seconds=0.1)
        self.thread = threading.Thread(target=self.uvicorn.run)
        self.thread.start()
        while not self.uvicorn.started:
            assert self.thread.is_alive()
            time.sleep(0.01)
        self.port = self.uvicorn.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        """As after SIGTERM."""
        self.uvicorn.should_exit = True
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture(scope="session")
def server(folders: dict[str, Path]) -> Iterator[Thread]:
    """One that serves both, for tests that leave it as it was."""
    served = {name: folders[name] for name in LABELS}
    running = Thread(served, max_bytes=100_000, max_pixels=10_000, seconds=3.0)
    yield running
    running.stop()
