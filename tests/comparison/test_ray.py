"""A comparison on a Ray cluster of two worker machines, both of them processes here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gossamer.comparison.sweep import compare

from .test_sweep import PROBE, VPT, comparison, numbers

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'gossamer[sweep]')")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without processors, and two workers with one each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_cluster_gives_the_rows_that_this_machine_gives(tmp_path: Path, cluster: Any) -> None:
    methods = {
        "probe": PROBE,
        "VPT": {**VPT, "grid": {"training.lr": [0.03]}},
        "no block": {"methods": [{"method": "vpt", "blocks": [9]}]},
    }
    found = compare(comparison(tmp_path / "ray", methods, seeds=[0]), engine="ray")
    assert numbers(found[:2]) == numbers(compare(comparison(tmp_path / "local", methods, seeds=[0]))[:2])
    assert found[2]["error"].startswith("no block 9")
    assert [row["error"] for row in found[:2]] == [None, None]


def test_a_task_that_is_killed_is_a_failed_cell(tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gossamer.comparison.engines.attempt", _die)
    rows = compare(comparison(tmp_path / "out", {"probe": PROBE}, seeds=[0]), engine="ray")
    assert "WorkerCrashedError" in rows[0]["error"]


def _die(cell: Any, threads: int) -> None:
    import os

    os._exit(9)
