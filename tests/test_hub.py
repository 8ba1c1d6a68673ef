"""The way to the hub and back, over HTTP, by huggingface_hub's own client; see `hub.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

import gossamer as gm

from . import squares
from .hub import Hub, running

PIXELS = torch.linspace(-1, 1, 3 * 3 * squares.SIZE**2).view(3, 3, squares.SIZE, squares.SIZE)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub, with nothing of it in the cache, and no token stored."""
    with running() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


def test_an_adapter_goes_to_the_hub_and_comes_back(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = gm.load(squares.trained() / "adapter")
    address = adapted.push_to_hub("someone/squares", token="secret")
    assert address == f"{hub.address}/someone/squares/commit/{hub.sha('someone/squares')}"
    three = ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert hub.commits == [("someone/squares", three)], "one commit: nobody sees half of it"
    told = hub.repositories["someone/squares"]["README.md"].decode()
    assert 'model = gm.load("someone/squares")\n' in told
    assert "![" not in told, "no picture was pushed"
    monkeypatch.chdir(tmp_path)
    again = gm.load("someone/squares")
    torch.testing.assert_close(again(pixel_values=PIXELS).logits, adapted(pixel_values=PIXELS).logits, rtol=0, atol=0)
    assert again.metadata == adapted.metadata
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert gm.load("someone/squares").metadata == adapted.metadata, "what was fetched once is there without a network"


@pytest.mark.slow
def test_folders_as_they_lie_and_finished_models_come_from_the_hub_too(hub: Hub, tmp_path: Path) -> None:
    adapted = gm.load(squares.trained() / "adapter")
    adapted.finalize(save=tmp_path / "finished")
    for name, folder in {"run": squares.trained() / "adapter", "finished": tmp_path / "finished"}.items():
        hub.repositories[f"someone/{name}"] = {}
        HfApi(token="secret").upload_folder(repo_id=f"someone/{name}", folder_path=folder)
    assert {"confusion.png", "curves.png"} <= hub.repositories["someone/run"].keys()
    expected = adapted(pixel_values=PIXELS).logits
    for model in (gm.load("someone/run"), gm.load_finished("someone/finished")):
        torch.testing.assert_close(model(pixel_values=PIXELS).logits, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_what_the_hub_does_not_give_is_said(hub: Hub, tmp_path: Path) -> None:
    adapted = gm.load(squares.trained() / "adapter")
    adapted.push_to_hub("someone/hidden", private=True, token="secret")
    hub.repositories["someone/empty"] = {"weights.bin": b"0"}
    whole = hub.repositories["someone/hidden"]
    hub.repositories["someone/torn"] = {
        **whole, "adapter_model.safetensors": whole["adapter_model.safetensors"][:-1] + b"\1",
    }  # fmt: skip
    for name in ("someone/hidden", "someone/none"):
        with pytest.raises(
            gm.AdapterError, match=f"no folder {name}, and the hub did not give a repository(?s:.)*token"
        ):
            gm.load(name)
    with pytest.raises(gm.AdapterError, match="no adapter at"):
        gm.load("someone/empty")
    with pytest.raises(gm.AdapterError, match="was altered after it was saved"):
        gm.load("someone/torn")
    (tmp_path / "token").write_text("secret")  # as `hf auth login` leaves it
    assert gm.load("someone/hidden").metadata == adapted.metadata
    with pytest.raises(HfHubHTTPError, match="401"):
        adapted.push_to_hub("someone/hidden", token="another")
