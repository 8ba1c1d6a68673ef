"""What the server is made of: batches, names, and what the command refuses."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path

import pytest

from gossamer.cli import main
from gossamer.errors import UserError
from gossamer.serving.batching import Batcher, Full, Stopped
from gossamer.serving.catalogue import named


def test_batches_are_of_one_kind_and_bounded() -> None:
    seen: list[int] = []
    calls: list[list[int]] = []
    begun, go_on = threading.Event(), threading.Event()

    def compute(some: list[int]) -> list[int]:
        calls.append(list(some))
        begun.set()
        assert go_on.wait(30)
        return [-one for one in some]

    async def ask() -> list:
        batcher = Batcher(compute, max_batch=3, max_wait=0, room=4, seen=seen.append)
        first = asyncio.ensure_future(batcher.ask(0, "a"))
        await asyncio.to_thread(begun.wait, 30)
        others = [asyncio.ensure_future(batcher.ask(n, "ab"[n % 2])) for n in range(1, 6)]
        await asyncio.sleep(0)
        others[1].cancel()
        go_on.set()
        found = await asyncio.gather(first, *others, return_exceptions=True)
        await asyncio.to_thread(batcher.close)
        with pytest.raises(Stopped):
            await batcher.ask(1, "a")
        return found

    found = asyncio.run(ask())
    assert found[:2] == [0, -1]
    assert isinstance(found[2], asyncio.CancelledError)
    assert found[3:5] == [-3, -4]
    assert isinstance(found[5], Full)
    assert calls[0] == [0]
    assert sorted(calls[1:]) == [[1, 3], [4]]
    assert seen == [len(c) for c in calls]


def test_what_fails_in_a_batch_fails_alone() -> None:
    def compute(some: list[int]) -> list[float]:
        return [1 / one for one in some]

    async def ask() -> list:
        batcher = Batcher(compute, max_batch=8, max_wait=0.2, room=8, seen=lambda _: None)
        found = await asyncio.gather(*(batcher.ask(n, "a") for n in (2, 0, 4)), return_exceptions=True)
        await asyncio.to_thread(batcher.close)
        return found

    found = asyncio.run(ask())
    assert found[0] == 0.5
    assert isinstance(found[1], ZeroDivisionError)
    assert found[2] == 0.25


def test_names() -> None:
    assert named(["runs/cells", "b=runs/cells"]) == {"cells": Path("runs/cells"), "b": Path("runs/cells")}
    with pytest.raises(UserError, match="are both called 'cells'; give one of them another name: NAME="):
        named(["runs/cells", "other/cells"])
    with pytest.raises(UserError, match="no name that an address can have"):
        named(["a/b=runs/cells"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none-such"], "none-such"),
        (["x", "--host", "0.0.0.0"], "--host 0.0.0.0 can be reached from elsewhere: give --token-file FILE"),
        (["x", "--max-batch", "-1"], "'-1' is no whole number from 1 on"),
        (["x", "--max-bytes", "1e6"], "'1e6' is no whole number from 1 on"),
        (["x", "--max-wait", "-5"], "'-5' is no time to wait"),
        (["x", "--max-wait", "soon"], "'soon' is no time to wait: 0 to 60000 milliseconds"),
        (["x", "--port", "65536"], "'65536' is no port: 0 to 65535"),
        (["x", "--replicas", "2"], "--replicas is of --engine ray; one process answers here"),
        (["x", "--engine", "ray"], "--engine ray needs ray: pip install 'gossamer[serve,cluster]'"),
        (["x", "--token-file", "short"], "a token is one word of at least 16 characters"),
    ],
)
def test_what_the_command_refuses(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "ray", None)
    Path("short").write_text("abc")
    assert main(["serve", *arguments]) == 2
    assert says in capsys.readouterr().err
