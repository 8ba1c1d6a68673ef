"""Saving survives kills and full disks; reading refuses what is not surely what was saved."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from gossamer import storage
from gossamer.storage import CARD, CONFIG, TENSORS, AdapterError, check_fields, check_tensors, fingerprint, read, write

CONFIG_BYTES, NOTES = '{"a": 1}\n', "my notes"
CHANGES = {"mkdir", "write", "replace", "rename", "unlink", "rmdir"}
SYSTEM_CALLS = CHANGES | {"open", "flush", "fsync", "close", "flock", "scandir"}


def adapter(name: str = "old") -> tuple[dict, dict, str]:
    """A configuration, tensors and a card that all say which adapter they belong to."""
    seed = sum(map(ord, name))
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "blocks.3.prompts": torch.randn(53, 7, generator=generator),
        "head.bias": torch.full((3,), float(seed), dtype=torch.bfloat16),
        "steps": torch.tensor(seed),
        "kept": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
    }
    config = {"name": name, "labels": ["Zelle", "défaut", "欠陥"], "drop": 0.1, "head": None}
    return config, tensors, f"# Adapter {name}\n"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    write(tmp_path / "cells", *adapter())
    return tmp_path / "cells"


def same(found: dict, expected: dict) -> bool:
    return found.keys() == expected.keys() and all(
        found[k].dtype == expected[k].dtype and torch.equal(found[k], expected[k]) for k in expected
    )


def edit(folder: Path, **fields) -> None:
    """Change fields of the configuration on disk; None removes one."""
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    config.update(fields)
    (folder / CONFIG).write_text(json.dumps({k: v for k, v in config.items() if v is not None}), "utf-8")


def resign(folder: Path, data: bytes) -> None:
    """Put other tensor bytes in place with a configuration that agrees to them, as an attacker would."""
    (folder / TENSORS).write_bytes(data)
    edit(folder, tensors=storage._record(TENSORS, data))


# What comes back


def test_round_trip_is_exact_and_repeatable(saved: Path, tmp_path: Path):
    config, tensors, card = adapter()
    found_config, found_tensors = read(saved)
    assert found_config == config
    assert same(found_tensors, tensors)
    assert sorted(os.listdir(saved)) == sorted([CONFIG, TENSORS, CARD])
    assert (saved / CARD).read_text("utf-8") == card
    assert sorted(os.listdir(tmp_path)) == ["cells"]
    write(tmp_path / "again", config, tensors, card)
    assert all((saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in os.listdir(saved))
    text = (saved / CONFIG).read_text("utf-8")
    assert "欠陥" in text
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def test_shared_strided_and_learning_tensors_are_stored_whole(tmp_path: Path):
    base = torch.arange(35.0).reshape(5, 7)
    learning = torch.nn.Parameter(base.clone())
    tensors = {"a": base, "again": base, "turned": base.T, "part": base[1:4, ::2], "wide": base[:1].expand(3, 7)}
    write(tmp_path / "x", {}, {**tensors, "learning": learning}, "")
    _, found = read(tmp_path / "x")
    assert same(found, {**tensors, "learning": base})
    found["a"].zero_()
    assert torch.equal(found["again"], base)
    assert not found["learning"].requires_grad


def test_replaces_the_old_adapter_and_leaves_other_files_alone(saved: Path):
    (saved / "notes.txt").write_text(NOTES)
    (saved / "logs").mkdir()
    (saved / "logs" / "README.md").write_text(NOTES)
    config, tensors, card = adapter("new")
    write(saved, config, {"one": tensors["steps"]}, card)
    assert read(saved) == (config, {"one": tensors["steps"]})
    assert (saved / CARD).read_text("utf-8") == card
    assert sorted(os.listdir(saved)) == sorted([CONFIG, TENSORS, CARD, "notes.txt", "logs"])
    assert (saved / "notes.txt").read_text() == (saved / "logs" / "README.md").read_text() == NOTES


def test_the_next_write_clears_what_killed_writers_left(saved: Path, tmp_path: Path):
    left = [saved / ".gossamer-saving-1", tmp_path / ".cells.gossamer-saving-2"]
    others = [tmp_path / ".cells2.gossamer-saving-3", tmp_path / ".gossamer-saving-4", saved / ".README.md.swp"]
    for folder in left + others:
        folder.mkdir()
        (folder / TENSORS).write_bytes(b"half")
    assert read(saved)[0]["name"] == "old"
    write(saved, *adapter("new"))
    assert not any(folder.exists() for folder in left)
    assert all((folder / TENSORS).exists() for folder in others)


def test_folders_of_every_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", *adapter())
    write(tmp_path / "deep" / "er" / "new", *adapter())
    (tmp_path / "link").symlink_to("empty")
    write(str(tmp_path / "link"), *adapter("new"))
    assert read(tmp_path / "empty")[0]["name"] == "new"
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write(".", *adapter())
    assert read("")[0]["name"] == "old"
    assert sorted(os.listdir(tmp_path)) == ["deep", "empty", "here", "link"]


def test_reads_a_folder_of_links_and_replaces_the_links_only(saved: Path, tmp_path: Path):
    """The hub's cache is such a folder: links into a store that several revisions share."""
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in os.listdir(saved):
        (linked / name).symlink_to(saved / name)
    assert read(linked)[0]["name"] == "old"
    write(linked, *adapter("new"))
    assert (read(linked)[0]["name"], read(saved)[0]["name"]) == ("new", "old")


# What is refused when saving


@pytest.mark.parametrize(
    ("config", "tensors", "message"),
    [
        ({}, {"a": torch.tensor([1.0, float("nan"), 2.0])}, r"1 of the 3 values of tensor 'a' are NaN or infinite"),
        ({}, {"a": torch.full((2, 3), float("inf"), dtype=torch.bfloat16)}, r"6 of the 6 .* lower the learning rate"),
        ({}, {"a": torch.tensor(float("nan")).to(torch.float8_e4m3fn)}, r"1 of the 1 values of tensor 'a'"),
        ({}, {"a": torch.tensor([complex(1, float("inf"))])}, r"1 of the 1 values of tensor 'a'"),
        ({}, {"a": torch.ones(3, device="meta")}, r"tensor 'a' is on the meta device, without values"),
        ({}, {"a": torch.ones(3, 3).to_sparse()}, r"tensor 'a' is torch.sparse_coo; only dense"),
        ({}, {"a": torch.ones(3, dtype=torch.complex128)}, r"safetensors does not take .*complex128"),
        ({}, {"a": 1.0}, r"'a' is a float; only tensors are stored"),
        ({}, {"__metadata__": torch.ones(2)}, r"'__metadata__' is not possible as a tensor's name"),
        ({}, {3: torch.ones(2)}, r"3 is not possible as a tensor's name"),
        ({"results": {"accuracy": float("nan")}}, {}, r"the configuration, 'results', 'accuracy' is nan"),
        ({"labels": {0: "cat"}}, {}, r"'labels' has the key 0; JSON keys are strings: write '0'"),
        ({"a": [1, {2}]}, {}, r"'a'\[1\] is a set; JSON has"),
        ({"a": "\udc80"}, {}, r"holds half a Unicode character"),
        ({"format": 1, "tensors": 2}, {}, r"the configuration has format, tensors, which storage writes itself"),
        ({"a": "x" * 2**24}, {}, r"16,777,\d+ bytes of JSON and at most 16,777,216 can be loaded"),
    ],
)
def test_unloadable_values_are_refused_before_anything_is_written(tmp_path: Path, config, tensors, message: str):
    with pytest.raises(AdapterError, match="cannot save: .*" + message):
        write(tmp_path / "deep" / "x", config, tensors, "")
    assert os.listdir(tmp_path) == []


def test_a_circle_in_the_configuration_is_refused(tmp_path: Path):
    circle: dict = {}
    circle["again"] = circle
    with pytest.raises(AdapterError, match="nested more than 64 levels"):
        write(tmp_path / "x", circle, {}, "")


@pytest.mark.parametrize("name", [CONFIG, TENSORS, CARD])
def test_files_of_others_are_never_overwritten(tmp_path: Path, name: str):
    (tmp_path / name).write_text(CONFIG_BYTES)
    with pytest.raises(AdapterError, match=rf"its {name} is not from an adapter saved by Gossamer and would be lost"):
        write(tmp_path, *adapter())
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_text() == CONFIG_BYTES


def test_a_file_or_a_folder_in_the_way(saved: Path, tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(AdapterError, match=r"cannot save to .*file: it is a file; give the name of a folder"):
        write(tmp_path / "file", *adapter())
    (saved / CARD).unlink()
    (saved / CARD).mkdir()
    with pytest.raises(AdapterError, match=r"README\.md is not from an adapter"):
        write(saved, *adapter("new"))
    assert read(saved)[0]["name"] == "old"


# What is refused when reading


def test_there_is_no_adapter(tmp_path: Path):
    with pytest.raises(AdapterError, match=r"no adapter at .*nowhere: it does not exist; give the folder"):
        read(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(AdapterError, match="it is a file"):
        read(tmp_path / "file")
    with pytest.raises(AdapterError, match=r"has no file adapter_config\.json; it holds 'file'"):
        read(tmp_path)
    os.mkfifo(tmp_path / CONFIG)
    with pytest.raises(AdapterError, match="has no file"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", r"is not valid JSON: Expecting value: line 1 column 1"),
        (b"\xff\xfe{}", r"is not valid JSON: 'utf-8' codec"),
        (b'{"a": 1,}', r"is not valid JSON: .*line 1 column"),
        (b"[1, 2]", r"should hold a JSON object and holds a list"),
        (b'{"a": {"b": 1, "c": 2, "b": 1}}', r"not valid JSON: the field 'b' stands there twice"),
        (b'{"a": [1, NaN]}', r"'a'\[1\] is nan; JSON has finite numbers only"),
        (b'{"a": -Infinity}', r"'a' is -inf"),
        (b'{"a": 1e999}', r"'a' is inf"),
        (b'{"a": "\\ud800"}', r"'a' is '\\ud800', which holds half a Unicode character"),
        (b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}", r"nested more than 64 levels deep"),
        (b"[" * 500_000, r"nested more than 64 levels deep"),
        (b'{"a": ' * 200_000 + b"1" + b"}" * 200_000, r"nested more than 64 levels deep"),
        (b'{"a": ' + b"9" * 10_000 + b"}", r"is not valid JSON: Exceeds the limit"),
        (b" " * (2**24 + 1), r"is larger than 16,777,216 bytes"),
        (b"{}", r"not the configuration of a Gossamer adapter: no 'format' and 'gossamer_version'$"),
        (b'{"peft_type": "LORA"}', r"looks like one of peft: load it with peft"),
    ],
)
def test_hostile_json(saved: Path, text: bytes, message: str):
    (saved / CONFIG).write_bytes(text)
    with pytest.raises(AdapterError, match=message):
        read(saved)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": 2}, r"has format 2, written by Gossamer '.*reads format 1: install the version that wrote it"),
        ({"format": True}, r"has format True"),
        ({"tensors": None}, r"'tensors': expected an object with the fields bytes, file, sha256; found None"),
        ({"tensors": {"file": TENSORS, "sha_256": "", "bytes": 3}}, r"unknown field 'sha_256' \(did you mean"),
        ({"tensors": {"file": "../x", "sha256": "", "bytes": 3}}, r"names the file '../x'; it can only be"),
        ({"card": {"file": "/etc/passwd", "sha256": "", "bytes": 3}}, r"names the file '/etc/passwd'"),
        ({"tensors": {"file": TENSORS, "sha256": 5, "bytes": 3}}, r"should hold a SHA-256 and a number of bytes"),
        ({"tensors": {"file": TENSORS, "sha256": "", "bytes": "3"}}, r"should hold a SHA-256 and a number of bytes"),
    ],
)
def test_fields_of_storage_itself(saved: Path, fields: dict, message: str):
    edit(saved, **fields)
    with pytest.raises(AdapterError, match=message):
        read(saved)


def test_tensor_file_missing_truncated_swapped_or_poisoned(saved: Path):
    data = (saved / TENSORS).read_bytes()
    (saved / TENSORS).unlink()
    with pytest.raises(AdapterError, match=rf"{TENSORS} is missing; {CONFIG} is there"):
        read(saved)
    (saved / TENSORS).write_bytes(data[:-1])
    with pytest.raises(AdapterError, match=rf"is {len(data) - 1:,} bytes long and .* records {len(data):,}: it"):
        read(saved)
    tensors = adapter()[1]
    (saved / TENSORS).write_bytes(safetensors.torch.save({**tensors, "steps": tensors["steps"] + 1}))
    with pytest.raises(AdapterError, match="was altered after it was saved: its SHA-256"):
        read(saved)
    tensors["blocks.3.prompts"][2, 3] = float("nan")
    for put in (lambda data: (saved / TENSORS).write_bytes(data), lambda data: resign(saved, data)):
        put(safetensors.torch.save(tensors))
        with pytest.raises(AdapterError, match=r"1 of the 371 values of tensor 'blocks\.3\.prompts' are NaN"):
            read(saved)


@pytest.mark.parametrize("header", [b"{", b"[]", b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,4]}}'])
def test_tensor_file_of_an_attacker(saved: Path, header: bytes):
    resign(saved, len(header).to_bytes(8, "little") + header + b"\0" * 4)
    with pytest.raises(AdapterError, match="is not a safetensors file: "):
        read(saved)


def test_a_pickle_is_not_opened(saved: Path, tmp_path: Path):
    torch.save({"a": torch.ones(3)}, tmp_path / "x.pt")
    resign(saved, (tmp_path / "x.pt").read_bytes())
    with pytest.raises(AdapterError, match="is not a safetensors file"):
        read(saved)


# Properties: random faults


def test_any_flipped_byte_and_any_length_of_the_tensor_file_is_refused(saved: Path):
    data, chance = (saved / TENSORS).read_bytes(), random.Random(0)
    for position in [0, len(data) - 1, *(chance.randrange(len(data)) for _ in range(200))]:
        flipped = bytearray(data)
        flipped[position] ^= chance.randrange(1, 256)
        (saved / TENSORS).write_bytes(flipped)
        with pytest.raises(AdapterError):
            read(saved)
    for length in {0, len(data) - 1, *(chance.randrange(len(data)) for _ in range(100))}:
        (saved / TENSORS).write_bytes(data[:length])
        with pytest.raises(AdapterError, match="cut short or replaced"):
            read(saved)
    (saved / TENSORS).write_bytes(data + b"\0")
    with pytest.raises(AdapterError, match="cut short or replaced"):
        read(saved)


def test_any_edit_of_the_configuration_is_refused_or_read_as_it_stands(saved: Path):
    """A person may edit the JSON; what is then read is what the file says, with the tensors that were saved."""
    text, chance, tensors = (saved / CONFIG).read_bytes(), random.Random(1), adapter()[1]
    outcomes = {"read": 0, "refused": 0}
    for _ in range(400):
        start, cut = chance.randrange(len(text)), chance.randrange(3)
        edited = text[:start] + chance.choice([b"", b"7", b'"', b"}", b"x", b",", b"\xe9"]) + text[start + cut :]
        (saved / CONFIG).write_bytes(edited)
        try:
            config, found = read(saved)
        except AdapterError:
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        stands = json.loads(edited.decode("utf-8"))
        assert config == {k: v for k, v in stands.items() if k not in storage.OWN_FIELDS}
        assert same(found, tensors)
    assert min(outcomes.values()) > 20


# Kills, full disks, several processes: the children are forked from a process of its own (this file, run as a program)


def run_in_fork(action, before=lambda: None) -> int:
    """The exit status of a child that did this: 0, or minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        before()
        action()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at(step: int, calls: set[str]) -> None:
    """From now on, SIGKILL this process just before its system call number `step`, counting those named."""
    count = iter(range(step + 1))

    def watch(frame, event, called):
        if event == "c_call" and called.__name__ in calls and next(count) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(watch)


def limit_file_size(size: int) -> None:
    """From now on, the kernel kills this process when it has written this much of a file."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def state(folder: Path) -> str:
    """Which adapter the folder holds, or why none can be read; also that it is whole and other files are untouched."""
    if not folder.exists():
        return "nothing there"
    try:
        config, tensors = read(folder)
    except AdapterError as error:
        return str(error)
    whole = adapter(config["name"])
    assert (config, same(tensors, whole[1])) == (whole[0], True)
    if (folder / "logs").exists():
        assert (folder / "logs" / "notes.txt").read_text() == NOTES
    return config["name"]


def killed_at_each_step(start: Path | None, folder: Path, name: str, calls: set[str]) -> Iterator[str]:
    """What `folder`, a copy of `start`, holds after a write of `name` killed at call 0, 1, ... until one succeeds."""
    status, steps = -signal.SIGKILL, itertools.count()
    while status:
        shutil.rmtree(folder.parent, ignore_errors=True)
        shutil.copytree(start, folder) if start else folder.parent.mkdir()
        step = next(steps)
        status = run_in_fork(lambda: write(folder, *adapter(name)), before=lambda step=step: kill_at(step, calls))
        assert status in (0, -signal.SIGKILL)
        yield state(folder)


def crash_program(scratch: Path) -> dict[str, list]:
    old, half, work = scratch / "old", scratch / "half" / "x", scratch / "work" / "x"
    write(old, *adapter("old"))
    (old / "logs").mkdir()
    (old / "logs" / "notes.txt").write_text(NOTES)
    result = {
        "new": list(killed_at_each_step(None, work, "new", SYSTEM_CALLS)),
        "over": list(killed_at_each_step(old, work, "new", SYSTEM_CALLS)),
        "twice": [
            (before, list(killed_at_each_step(half, work, "third", CHANGES)))
            for before in killed_at_each_step(old, half, "new", CHANGES)
        ],
    }
    result["left"] = sorted(os.listdir(work)) + sorted(os.listdir(work.parent))
    result["partial"] = []
    for size in (0, 60, 1000):
        status = run_in_fork(lambda: write(old, *adapter("new")), before=lambda size=size: limit_file_size(size))
        result["partial"].append([status, state(old)])
    return result


def race_program(scratch: Path) -> dict[str, list]:
    """Three writers and a reader of one folder, which does not exist yet."""
    folder, names = scratch / "shared", ("one", "two", "three")

    def write_often(name: str) -> None:
        for _ in range(15):
            write(folder, *adapter(name))

    children = {os.fork() or (write_often(name), os._exit(0)) for name in names}
    seen, statuses = set(), []
    while len(statuses) < len(children):
        seen.add(state(folder))
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            statuses.append(os.waitstatus_to_exitcode(os.wait()[1]))
    left = sorted(os.listdir(scratch)) + sorted(os.listdir(folder))
    return {"statuses": statuses, "seen": sorted(seen), "left": left}


def run_program(which: str, scratch: Path) -> dict[str, list]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, __file__, which, str(scratch)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the kills need fork and SIGKILL")
def test_a_kill_at_any_step_leaves_the_old_or_the_new_adapter(tmp_path: Path):
    result = run_program("crash", tmp_path)
    for states, before in ((result["new"], "nothing there"), (result["over"], "old")):
        change = states.index("new")
        assert len(states) > 15
        assert states == [before] * change + ["new"] * (len(states) - change)
        assert 0 < change < len(states) - 1
    assert {before for before, _ in result["twice"]} == {"old", "new"}
    for before, states in result["twice"]:
        change = states.index("third")
        assert states == [before] * change + ["third"] * (len(states) - change)
    assert result["left"] == [*sorted([CONFIG, TENSORS, CARD, "logs"]), "x"]
    assert result["partial"] == [[-signal.SIGXFSZ, "old"]] * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked")
def test_writers_take_turns_and_readers_see_whole_adapters(tmp_path: Path):
    result = run_program("race", tmp_path)
    assert result["statuses"] == [0, 0, 0]
    assert set(result["seen"]) <= {"nothing there", "one", "two", "three"}
    assert len(result["seen"]) > 1
    assert result["left"] == ["shared", *sorted([CONFIG, TENSORS, CARD])]


@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("call", range(4))
def test_a_full_disk_leaves_the_old_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool, call: int):
    if existing:
        write(tmp_path / "x", *adapter())
    real, calls = os.fsync, iter(range(100))

    def full(handle: int) -> None:
        if next(calls) == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"could not save the adapter to .*x: No space left .* needed\); .*unchanged"):
        write(tmp_path / "x", *adapter("new"))
    assert state(tmp_path / "x") == ("old" if existing else "nothing there")
    assert sorted(p.name for p in tmp_path.rglob("*")) == (sorted([CONFIG, TENSORS, CARD, "x"]) if existing else [])


# Fields, tensors, fingerprints


def test_check_fields():
    check_fields({"prompts": 10, "deep": True}, {"deep", "prompts"}, "methods[0]")
    wrong = {"promts": 10, "zz": 1, "deep": True}
    with pytest.raises(AdapterError) as caught:
        check_fields(wrong, {"deep", "prompts"}, "methods[0]")
    assert str(caught.value).startswith(
        "methods[0]: unknown field 'promts' (did you mean 'prompts'?), unknown field 'zz', missing field 'prompts'; "
        "the fields are deep, prompts;"
    )
    with pytest.raises(AdapterError, match=r"methods\[0\]: expected an object with the fields a; found \[1, 2\]"):
        check_fields([1, 2], {"a"}, "methods[0]")
    with pytest.raises(AdapterError, match=r"unknown field 'e' and 2 more; the fields are none"):
        check_fields(dict.fromkeys("abcdefg"), set(), "x")


def test_check_tensors():
    expected = {"a": torch.ones(5, 7, device="meta"), "b": torch.ones(3), "c": torch.tensor(1), "d": torch.ones(2)}
    check_tensors({**expected, "a": torch.ones(5, 7, dtype=torch.bfloat16)}, expected)
    found = {"a": torch.ones(7, 5), "b": torch.ones(3), "c": torch.tensor(1.0), "e": torch.ones(2)}
    with pytest.raises(AdapterError) as caught:
        check_tensors(found, expected)
    assert str(caught.value) == (
        "the adapter's tensors (4) are not those that its configuration and this backbone call for (4): missing 'd', "
        "not expected 'e', 'a' has shape (7, 5), expected (5, 7), 'c' is torch.float32, expected torch.int64; "
        "load it over the backbone it was trained on"
    )
    with pytest.raises(AdapterError, match="missing 'w4' and 6 more;"):
        check_tensors({}, {f"w{i:x}": torch.ones(1) for i in range(11)})


def test_fingerprint_tells_weights_apart_and_nothing_else():
    torch.default_generator.manual_seed(0)
    weights = {"w": torch.randn(301, 217), "b": torch.randn(3, dtype=torch.bfloat16), "n": torch.tensor(7)}
    weights |= {"mask": torch.tensor([True, False, True]), "none": torch.zeros(0, 2), "z": torch.ones(5).cfloat()}
    base = fingerprint(weights.items())
    assert len(base) == 64
    assert fingerprint(reversed(weights.items())) == base
    assert fingerprint((k, v.clone()) for k, v in weights.items()) == base
    shifted = torch.cat([weights["b"][:1], weights["b"]])[1:]
    strided = {**weights, "w": weights["w"].T.contiguous().T, "b": shifted}
    assert not strided["w"].is_contiguous()
    assert strided["b"].storage_offset() == 1
    assert fingerprint(strided.items()) == base
    assert fingerprint((k, torch.nn.Parameter(v) if v.is_floating_point() else v) for k, v in weights.items()) == base
    other = [{**weights, "w": weights["w"].double()}, {**weights, "w": weights["w"].reshape(217, 301)}]
    other += [{k + "x": v for k, v in weights.items()}, {k: v for k, v in weights.items() if k != "none"}]
    assert len({base, *(fingerprint(o.items()) for o in other)}) == 5


def test_fingerprint_sees_any_single_value_and_moved_rows():
    weights, chance = torch.randn(301, 217, generator=torch.Generator().manual_seed(0)), random.Random(0)
    base = fingerprint([("w", weights)])
    for position in [0, weights.numel() - 1, *(chance.randrange(weights.numel()) for _ in range(50))]:
        changed = weights.clone()
        changed.view(-1)[position] *= 1.0001
        assert fingerprint([("w", changed)]) != base
    assert fingerprint([("w", weights.flip(0))]) != base


def test_fingerprint_is_fast_and_needs_values():
    parameters = {f"blocks.{i}": torch.randn(1100, 1000) for i in range(20)}
    fingerprint(parameters.items())
    start = time.perf_counter()
    fingerprint(parameters.items())
    assert time.perf_counter() - start < 0.3
    with pytest.raises(AdapterError, match="'w' is on the meta device; load the weights first"):
        fingerprint([("w", torch.ones(3, device="meta"))])


if __name__ == "__main__":
    torch.set_num_threads(1)
    program = {"crash": crash_program, "race": race_program}[sys.argv[1]]
    print(json.dumps(program(Path(sys.argv[2]))))
