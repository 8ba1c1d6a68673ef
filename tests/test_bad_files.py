"""Bad run files, comparison files, images, records and models: each is one sentence that names it, or is handled right."""

from __future__ import annotations

from pathlib import Path

import pytest

from gossamer.errors import told

from .bad import models, pictures, records, settings

KINDS = (
    *(settings.spelled, settings.values, settings.comparisons),
    *(pictures.images, pictures.folders),
    *(records.questions_and_answers, records.statements, records.captions_and_problems, records.lists),
    models.models,
)
CASES = {name: (made, named) for kind in KINDS for name, made, named in kind()}


def test_there_are_at_least_250() -> None:
    assert len(CASES) == sum(len(list(kind())) for kind in KINDS), "every case has a name of its own"
    assert len([named for _, named in CASES.values() if named is not None]) >= 250


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if i % 2 else ()) for i, case in enumerate(CASES)]
)
def test_it_is_named_or_handled(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("GOSSAMER_CACHE", str(tmp_path / "cache"))
    made, named = CASES[case]
    if named is None:
        assert made(tmp_path) is not None
        return
    with pytest.raises(Exception, match=named) as caught:
        made(tmp_path)
    sentence = told(caught.value)
    assert sentence is not None, f"a bug: {caught.value!r}"
    assert "\n" not in sentence
    assert len(sentence) < 2000
