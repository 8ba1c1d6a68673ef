"""The same server as a deployment of Ray Serve: two replicas on a cluster of this machine."""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

import gossamer as gm

from .conftest import LABELS, Process, Running, picture, saved
from .test_server import BAD, stopped_in_the_middle

pytest.importorskip("grpc", reason="Ray Serve is not installed (pip install 'gossamer[serve,cluster]')")
pytestmark = pytest.mark.slow

LIMITS = ("--max-bytes", "100000", "--max-pixels", "10000", "--timeout", "3")  # those of the fixture `server`


class Clustered(Process):
    """One that `gossamer serve --engine ray` runs."""

    def __init__(self, *arguments: str):
        super().__init__("--engine", "ray", "--replicas", "2", *arguments)

    def stop(self) -> int:
        """Its exit code after SIGTERM, with which everything ends that it began."""
        begun = psutil.Process(self.process.pid).children(recursive=True)
        assert len(begun) > 2
        code = super().stop()
        _, left = psutil.wait_procs(begun, timeout=20)
        assert left == []
        return code


@pytest.fixture(scope="module")
def own(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Copies of the folders, to be changed."""
    root = tmp_path_factory.mktemp("own")
    return {name: Path(shutil.copytree(folders[name], root / name)) for name in LABELS}


@contextmanager
def clustered(*arguments: str) -> Iterator[Clustered]:
    """One that is ended with the context, in whatever way that is left."""
    running = Clustered(*arguments)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            assert running.stop() == 0, "".join(running.said)


@pytest.fixture(scope="module")
def cluster(own: dict[str, Path]) -> Iterator[Clustered]:
    with clustered(*map(str, own.values()), *LIMITS) as running:
        yield running


def series(numbers: dict[str, float], name: str) -> dict[str, float]:
    """Values of a number by replica, of all its adapters and statuses together."""
    found: dict[str, float] = {}
    for key, value in numbers.items():
        said = re.fullmatch(rf'{name}{{.*replica="(\w+)".*}}', key)
        if said:
            found[said[1]] = found.get(said[1], 0) + value
    return found


def test_replicas_answer_as_one_server_alone(cluster: Running, server: Running) -> None:
    def asks(running: Running) -> Any:
        return lambda n: running.ask("POST", f"/adapters/{('cells', 'dogs')[n % 2]}/predict", picture(n % 5))

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(asks(cluster), range(100)))
    for (status, given), (_, expected) in zip(found, map(asks(server), range(10)), strict=False):
        assert status == 200
        assert given["label"] == expected["label"]
        assert given["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)
    assert {status for status, _ in found} == {200}
    counted = series(cluster.numbers(), "gossamer_requests_total")
    assert len(counted) == 2
    assert min(counted.values()) > 0
    assert sum(counted.values()) == 100
    assert set(series(cluster.numbers(), "gossamer_adapters").values()) == {2}


def test_what_there_is(cluster: Running, server: Running) -> None:
    for path in ("/health", "/adapters", "/openapi.json", "/docs"):
        assert cluster.ask("GET", path) == server.ask("GET", path)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{bad[1]}-{bad[4]}")
def test_what_is_bad_is_said(cluster: Running, bad: tuple) -> None:
    method, path, body, headers, expected, says = bad
    status, found = cluster.ask(method, path, body, headers)
    assert status == expected, found
    assert says in str(found)


def test_a_body_without_a_length_is_bounded_too(cluster: Running) -> None:
    status, found = cluster.ask("POST", "/adapters/cells/predict", (b"y" * 10_000 for _ in range(11)))
    assert (status, found["detail"]) == (413, "the body has more than 100,000 bytes")


def test_every_replica_reads_its_folders_again(
    cluster: Clustered, own: dict[str, Path], folders: dict[str, Path]
) -> None:
    shutil.rmtree(own["cells"])
    saved(folders["base"], own["cells"], gm.VPT(prompts=5), ("whole", "cracked", "dirty"), 7)
    cluster.process.send_signal(signal.SIGHUP)
    in_row = 0
    for _ in range(400):
        status, found = cluster.ask("POST", "/adapters/cells/predict", picture())
        assert status == 200
        in_row = in_row + 1 if len(found["probabilities"]) == 3 else 0
        if in_row == 20:
            return
        time.sleep(0.02)
    raise AssertionError(in_row)


def test_nothing_is_lost_when_it_stops(folders: dict[str, Path]) -> None:
    with clustered(str(folders["dogs"]), "--max-wait", "300", "--max-batch", "64") as running:
        assert stopped_in_the_middle(running, running.stop) == 0
