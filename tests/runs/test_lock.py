from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import gossamer
from gossamer.runs.lock import alone

HOLD = """
import sys, time
from pathlib import Path
from gossamer.runs.lock import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
COUNT = """
import sys
from pathlib import Path
from gossamer.runs.lock import alone
file = Path(sys.argv[1]) / "count"
for _ in range(20):
    with alone(file.parent, wait=True):
        file.write_text(str(int(file.read_text() or 0) + 1) if file.exists() else "1")
"""


def process(code: str, folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(gossamer.__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
    )


@contextlib.contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder, killed behind the block."""
    with process(HOLD, folder) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder
        finally:
            holder.kill()


def test_a_second_process_is_refused_and_told_who_holds_the_folder_and_a_kill_leaves_no_lock(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with held(folder) as holder:
        message = rf"process {holder.pid} on .* \(-c .*, since 20.*\) works in .*run: wait for it, or end it"
        with pytest.raises(BlockingIOError, match=message), alone(folder):
            pass
    with alone(folder):
        assert json.loads((folder / ".holder.json").read_text())["process"] == os.getpid()
    assert list(folder.iterdir()) == []


def test_a_process_may_take_its_folder_again_but_not_another_thread(tmp_path: Path) -> None:
    with alone(tmp_path):
        with alone(tmp_path):
            pass
        assert (tmp_path / ".holder.json").is_file()
        refused = []

        def try_it() -> None:
            try:
                with alone(tmp_path):
                    pass
            except BlockingIOError as error:
                refused.append(str(error))

        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
        assert f"process {os.getpid()} on" in refused[0]


def test_who_waits_takes_turns(tmp_path: Path) -> None:
    """The lock file goes with each turn, and no two ever hold the folder."""
    with contextlib.ExitStack() as ended:
        processes = [ended.enter_context(process(COUNT, tmp_path)) for _ in range(3)]
    assert [each.returncode for each in processes] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "60"
    assert [path.name for path in tmp_path.iterdir()] == ["count"]


def test_a_holder_that_has_not_said_who_it_is(tmp_path: Path) -> None:
    with held(tmp_path):
        (tmp_path / ".holder.json").write_text("{}")
        with pytest.raises(BlockingIOError, match="another process works in"), alone(tmp_path):
            pass


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(FileExistsError, match=r"output .*file is a file; give the name of a folder"),
        alone(tmp_path / "file"),
    ):
        pass
