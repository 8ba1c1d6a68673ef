from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from sklearn import metrics

import gossamer as gm
from gossamer import cli, data, predict
from gossamer.evaluate import evaluate
from gossamer.runs.trained import load_adapter
from gossamer.tasks.classifying_images import ClassifyingImages, score

from . import squares


def test_scores_are_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(0, 4, (57,), generator=generator)
    labels[labels == 2] = 0  # one class without images
    logits = torch.randn(57, 4, generator=generator)
    found, guess = score(logits, labels, ["a", "b", "c", "d"]), logits.argmax(1)
    assert found.n == 57
    assert found.accuracy == pytest.approx(metrics.accuracy_score(labels, guess))
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert found.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(labels, guess))
    assert found.confusion == metrics.confusion_matrix(labels, guess, labels=range(4)).tolist()
    recalls = metrics.recall_score(labels, guess, labels=[0, 1, 3], average=None)
    assert list(found.recall) == ["a", "b", "c", "d"]
    assert [found.recall[name] for name in "abd"] == pytest.approx(recalls)
    assert found.recall["c"] is None
    assert found.loss == pytest.approx(metrics.log_loss(labels, logits.double().softmax(1), labels=range(4)))
    assert "c                         -" in ClassifyingImages.table(found.to_dict())


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    adapted = load_adapter(squares.trained())
    whole = evaluate(adapted, data.load(squares.images(), "test"))
    only = tmp_path / "only"
    shutil.copytree(squares.images() / "test" / "same", only / "same")
    shutil.copytree(squares.images() / "test" / "different", only / "different")
    renamed = data.load(only, "train").with_classes(["same", "different"])
    again = evaluate(adapted, renamed, batch=7)
    assert again.confusion == whole.confusion
    assert again.loss == pytest.approx(whole.loss, rel=1e-6)
    shutil.copytree(only / "same", only / "unheard")
    with pytest.raises(
        ValueError, match=r"unheard.*class 'unheard', which is not among the expected classes different, same"
    ):
        evaluate(adapted, data.load(only, "train"))


def test_an_adapter_without_records_is_refused(tmp_path: Path) -> None:
    adapted = gm.adapt(gm.zoo.load(squares.backbone()), gm.VPT(), num_labels=2)
    adapted.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"does not record its labels; .*set adapted.metadata\['labels'\]"):
        evaluate(load_adapter(tmp_path), data.load(squares.images(), "test"))


def test_an_unfinished_run_has_no_adapter(tmp_path: Path) -> None:
    shutil.copy(squares.trained() / "run.yaml", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has not finished: continue it with gossamer train ... --resume"):
        load_adapter(tmp_path)


def test_the_command_prints_the_scores_of_every_split(capsys: pytest.CaptureFixture[str]) -> None:
    known = json.loads((squares.trained() / "metrics.json").read_text())
    for split in ("val", "test"):
        assert cli.main(["evaluate", str(squares.trained()), "--split", split, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert {name: found[name] for name in known[split]} == known[split]
        assert found["split"] == split
    assert cli.main(["evaluate", str(squares.trained())]) == 0
    shown = capsys.readouterr().out
    assert f"accuracy              {known['test']['accuracy']:7.2%}" in shown
    assert "(test)" in shown


def test_the_command_takes_other_images_and_bare_adapters(capsys: pytest.CaptureFixture[str]) -> None:
    adapter, images = str(squares.trained() / "adapter"), str(squares.images())
    assert cli.main(["evaluate", adapter, "--data", images, "--split", "train", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 300
    assert cli.main(["evaluate", adapter]) == 2
    assert "say on which images: --data SET --split test" in capsys.readouterr().err
    assert cli.main(["evaluate", str(squares.trained()), "--split", "dev"]) == 2
    assert "has no split 'dev'; it has: train, val, test" in capsys.readouterr().err


def test_probabilities_are_the_softmax_of_the_logits_and_ranked() -> None:
    adapted = load_adapter(squares.trained())
    files = sorted((squares.images() / "test" / "same").iterdir())[:5]
    found = list(predict.predict(adapted, files, batch=2))
    prepare = gm.tasks.recorded.preprocessing_of(adapted)
    pixels = torch.stack([prepare(data.open_image(file)) for file in files])
    batches = [adapted(pixel_values=some).logits for some in pixels.split(2)]  # others are rounded otherwise
    expected = torch.cat(batches).double().softmax(1)
    for record, file, row in zip(found, files, expected, strict=True):
        assert record["file"] == str(file)
        assert [record["probabilities"][name] for name in ("different", "same")] == pytest.approx(
            row.tolist(), abs=1e-6
        )
        assert record["label"] == next(iter(record["probabilities"]))
        assert record["probability"] == max(record["probabilities"].values())


def test_predict_names_files_in_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = squares.save_images(tmp_path / "images", train=1, test=2) / "test"
    one = folder / "same" / "001.png"
    assert cli.main(["predict", str(squares.trained()), str(one), str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [record["file"] for record in found] == [str(one), *(str(p) for p in sorted(folder.rglob("*.png")))]
    assert cli.main(["predict", str(squares.trained()), str(one), "--top", "1"]) == 0
    assert capsys.readouterr().out.split()[:2] == [str(one), found[0]["label"]]


def test_predict_names_what_it_cannot_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.jpg").write_text("no image")
    (tmp_path / "empty").mkdir()
    for path, message in {
        "bad.jpg": "bad.jpg cannot be read as an image",
        "none.jpg": "no such image file or folder",
        "empty": "holds no image (.jpg",
    }.items():
        assert cli.main(["predict", str(squares.trained()), str(tmp_path / path)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert str(tmp_path / path) in error
        assert "Traceback" not in error


def test_predict_leaves_out_what_it_cannot_read_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = squares.save_images(tmp_path / "images", train=1, test=3) / "test"
    bad = [folder / "same" / "001.png", folder / "different" / "000.png", folder / "same" / "gone.png"]
    bad[0].write_bytes(bad[0].read_bytes()[:40])
    bad[1].write_text("no image")
    bad[2].symlink_to(tmp_path / "nowhere.png")
    for junk in (
        "._000.png",
        ".hidden/0.png",
        "__MACOSX/0.png",
        ".ipynb_checkpoints/0.png",
        "Thumbs.db",
        "desktop.ini",
    ):
        (folder / "same" / junk).parent.mkdir(exist_ok=True)
        (folder / "same" / junk).write_bytes(b"junk")
    assert cli.main(["predict", str(squares.trained()), str(folder), "--json"]) == 1
    shown = capsys.readouterr()
    left = [path for path in sorted(folder.rglob("0*.png")) if path not in bad and path.parent.parent == folder]
    assert [record["file"] for record in json.loads(shown.out)] == [str(path) for path in left if path.name[0] != "."]
    assert len(left) == 4
    lines = shown.err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("gossamer predict: left out: ") for line in lines)
    assert all(any(str(path) in line for line in lines) for path in bad)


@pytest.mark.parametrize("top", ["0", "-1", "2.5", "x"])
def test_predict_shows_one_label_or_more(top: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", str(squares.trained()), str(squares.images()), "--top", top]) == 2
    assert f"argument --top: {top!r} is no whole number from 1 on" in capsys.readouterr().err
