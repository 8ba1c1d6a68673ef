"""Readers of JSON and YAML: right values, limits, and a sentence with the place for whatever is wrong."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest

from gossamer import documents
from gossamer.errors import UserError

LAUGHS = "\n".join(f"a{i}: &a{i} " + ("[x]" if i == 0 else f"[*a{i - 1}, *a{i - 1}]") for i in range(60))
TOWER = "\n".join(f"a{i}: &a{i} " + ("[x]" if i == 0 else "[" * 50 + f"*a{i - 1}" + "]" * 50) for i in range(60))


def test_yaml_reads_the_numbers_of_yaml_1_2_and_no_dates() -> None:
    text = "a: 1e-3\nb: 5E3\nc: .5\nd: -2\ne: 2020-01-01\nf: e5\ng: +1.5e+2\nh: .inf\ni: true\nj: ~\nk: 1_000"
    assert documents.parse_yaml(text, "f") == {
        "a": 0.001, "b": 5000.0, "c": 0.5, "d": -2, "e": "2020-01-01", "f": "e5", "g": 150.0, "h": float("inf"), "i": True,
        "j": None, "k": 1000,
    }  # fmt: skip
    assert documents.parse_yaml("# nothing", "f") is None
    assert documents.parse_yaml("a: &a {x: 1}\nb: {<<: *a, x: 2, y: *a}", "f")["b"] == {"x": 2, "y": {"x": 1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {", r"f, line 2, column 1 is not YAML"),
        ("a:\n\tb: 1", r"f, line 2, column 1 is not YAML that is read here: found character"),
        ("a: 1\nb: 2\na: 3", r"f, line 3: 'a' stands there twice"),
        ("a: {b: 1, b: 2}", r"f, line 1: 'b' stands there twice"),
        ("a: &a [*a]", r"f, line 1: an anchor holds itself"),
        ("a: &a {b: {c: *a}}", r"f, line 1: an anchor holds itself"),
        ("[" * 70 + "]" * 70, r"f, line 1 is nested more than 64 levels deep"),
        ("[" * 9999 + "]" * 9999, r"exceeded maximum nesting depth|nested too deep"),
        (LAUGHS, r"f, line \d+ holds more than 100,000 values, aliases written out"),
        (TOWER, r"f, line 2 holds more than 64 levels, aliases written out"),
        ("a: !!python/object/apply:os.system ['false']", r"f, line 1, column 4 .*could not determine a constructor"),
        ("a: !mine 3", "could not determine a constructor"),
        ("a: \0", "f is not YAML that is read here: unacceptable character"),
        ("a\n---\nb", r"f, line 2, column 1 .*found another document|but found another document"),
        ("? [1]\n: 2", "unhashable key"),
        ("a: *b", "undefined alias"),
        ("a: " + "9" * 5000, "f holds a number that is not read: Exceeds the limit"),
    ],
)  # fmt: skip
def test_yaml_that_is_refused(text: str, message: str) -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match=message):
        documents.parse_yaml(text, "f")
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "f, line 1, column 1 is not JSON: it is empty"),
        (b'{"a": 1,\n "b": }', r"f, line 2, column 7 is not JSON: Expecting value"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "f is not valid JSON: the field 'c' stands there twice"),
        (b"[" * 100_000, "f is not read: it is nested too deep"),
        (b"9" * 5000, "f is not valid JSON: Exceeds the limit"),
        (b'{"a": "\xff"}', "f is not UTF-8 text: byte 7 is 0xff"),
        ('{"a": 1}'.encode("utf-16"), "f is not UTF-8 text"),
    ],
)
def test_json_that_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        documents.parse_json(data, "f")


def test_a_mark_of_the_byte_order_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": [1]}')
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: [1]\r\n")
    assert documents.read_json(tmp_path / "a.json") == documents.read_yaml(tmp_path / "a.yaml") == {"a": [1]}


@pytest.mark.parametrize("read", [documents.read_json, documents.read_yaml, documents.read_lines])
def test_what_is_no_file_or_too_large_is_refused_at_once(
    read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="is a folder or a device"):
        read(tmp_path)
    with pytest.raises(UserError, match="/dev/zero is a folder or a device"):
        read("/dev/zero")
    for name in ("SETTINGS", "RECORDS", "YAML"):
        monkeypatch.setattr(documents, name, 10)
    (tmp_path / "large").write_text("[1, 2, 3, 4, 5]")
    with pytest.raises(UserError, match=r"large is larger than 10 bytes"):
        documents.read_json(tmp_path / "large", 10) if read is documents.read_json else read(tmp_path / "large")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")


def test_lines_of_json_are_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\r\n\n[2]')
    assert list(documents.read_json_lines(path)) == [(f"line 1 of {path}", {"a": 1}), (f"line 3 of {path}", [2])]
    monkeypatch.setattr(documents, "LINE", 8)
    path.write_bytes(b'{"a": 1}\n{"a": "' + b"x" * 99)
    with pytest.raises(UserError, match=r"line 1 of .* has more than 8 bytes; it should be one record"):
        list(documents.read_json_lines(path))


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    documents.write_whole(path, "old")
    os.symlink("/dev/full", tmp_path / ".a.new")
    with pytest.raises(OSError, match=r"No space left on device: '.*/a'") as caught:
        documents.write_whole(path, "new" * 9999)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    documents.write_whole(path, "new")
    assert path.read_text() == "new"


def test_the_home_folder_of_nobody_is_named() -> None:
    assert documents.expanded("~/x") == Path.home() / "x"
    with pytest.raises(UserError, match="~nobody-at-all/x: Could not determine home directory"):
        documents.expanded("~nobody-at-all/x")
