"""`gossamer methods`: what it reads from the source is what the methods are."""

from __future__ import annotations

import ast
import dataclasses

import pytest

from gossamer.cli import main
from gossamer.commands.methods import REQUIRED, every
from gossamer.methods import METHODS


def test_every_method_has_its_settings_and_defaults() -> None:
    told = every()
    assert set(told) == set(METHODS)
    for name, kind in METHODS.items():
        fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        assert list(told[name].settings) == list(fields), name
        for setting, (_, default) in told[name].settings.items():
            given = fields[setting].default
            assert (default == REQUIRED) == (given is dataclasses.MISSING), (name, setting)
            if default[0] in "0123456789-'TFN":
                assert ast.literal_eval(default) == given, (name, setting)
        assert told[name].text == (kind.__doc__ or "").strip().replace("\n    ", "\n")


def test_all_in_short_and_one_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    said = capsys.readouterr().out
    assert "vpt               Prompts in front of the patches" in said
    assert "prompts=10, deep=True" in said
    assert all(f"\n{name} " in f"\n{said}" for name in (*METHODS, "peft"))
    assert main(["methods", "tome"]) == 0
    said = capsys.readouterr().out
    assert "Args:" in said
    assert "Settings:\n" in said
    assert main(["methods", "peft"]) == 0


def test_an_unknown_method_is_told_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "vtp"]) == 2
    assert "no method 'vtp' (did you mean 'vpt'?); there are adapter, apt," in capsys.readouterr().err
