from __future__ import annotations

from pathlib import Path

import pytest

from gossamer.data.files import field, find, read_json, read_json_lines


def test_the_first_place_that_exists_is_found(tmp_path: Path) -> None:
    (tmp_path / "b").touch()
    assert find(tmp_path, "a", "b") == tmp_path / "b"
    with pytest.raises(FileNotFoundError, match=r"holds no a and no c/d$"):
        find(tmp_path, "a", "c/d")


def test_malformed_files_are_named_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a": 1,\n "b": }')
    with pytest.raises(ValueError, match=r"x.json, line 2, column 7 is not JSON: Expecting value"):
        read_json(path)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match=r"x.json is not UTF-8 text"):
        read_json(path)
    path.write_text('{"a": 1}\n\n{"a": 2\n')
    with pytest.raises(ValueError, match=r"line 3 of .*x.json is not JSON: .* at column 8"):
        list(read_json_lines(path))
    path.write_text('{"a": 1}\n[1, 2]\n')
    with pytest.raises(ValueError, match=r"line 2 of .*x.json is not a record of named fields, but \[1, 2\]"):
        list(read_json_lines(path))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"b": 1, "c": 2}, "here has no field 'a'; it has: b, c"),
        ({"a": "1"}, "here has '1' in field 'a', which should be int"),
        ({"a": True}, "here has True in field 'a', which should be int"),
        ({"a": "x" * 90}, r"here has 'x+\.\.\.x+' in field 'a'"),
    ],
)
def test_fields_of_another_kind_are_refused(record: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        field(record, "a", int, "here")
    assert field({"a": 3}, "a", int, "here") == 3
