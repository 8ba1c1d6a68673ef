from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

import gossamer as gm
from gossamer import cli, data, methods
from gossamer.protocols import PAPERS, TASKS, files, protocol
from gossamer.runs.run_file import parse


def test_every_task_has_a_reader() -> None:
    assert set(TASKS) == set(data.names("vtab")) | set(data.names("fgvc"))


def test_prompts_of_vpt_are_those_whose_means_the_paper_prints() -> None:
    deep = [of[0] for of in TASKS.values()]
    natural, specialised, structured, fgvc = deep[:7], deep[7:11], deep[11:19], deep[19:]
    means = [sum(part) / len(part) for part in (natural, specialised, structured, fgvc)]
    assert [round(mean, 1) for mean in means] == [12.4, 52.8, 107.5, 73.0]
    shallow = [of[1][0] for of in TASKS.values()]
    assert (sum(shallow[7:11]) / 4, sum(shallow[11:19]) / 8) == (28.75, 137.5)
    assert sum(of[1][1] >= 100 for of in TASKS.values()) == 6  # the paper: large rates on six tasks


def test_prompts_of_cvpt_are_those_whose_mean_the_spec_derives() -> None:
    prompts = [of[2][0] for of in TASKS.values()]
    assert round(sum(prompts[:19]) / 19, 1) == 35.8
    assert sum(prompts[19:]) / 5 == 64


@pytest.mark.parametrize("paper", PAPERS)
def test_every_protocol_fits_a_vision_transformer(paper: str) -> None:
    tiny = ViTConfig(
        hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20, image_size=16, patch_size=4
    )
    for task in ("fgvc/cub", "fgvc/dogs") if paper == "spt-deep" else ("vtab/svhn", "fgvc/dogs"):
        method = methods.from_dict(protocol(paper, task).method)
        adapted = gm.adapt(ViTForImageClassification(tiny), method, num_labels=3)
        method.prepare(adapted, [{"pixel_values": torch.randn(3, 16, 16)} for _ in range(3)])
        assert adapted(pixel_values=torch.zeros(1, 3, 16, 16)).logits.shape == (1, 3)


def test_selection_sees_the_validation_images_and_the_last_training_uses_them() -> None:
    select = files("vpt-deep", "vtab/dtd", "select", "runs")
    assert len(select) == 40
    chosen = select["lr2.5-wd0.001"]
    assert (chosen.training.lr, chosen.training.head_lr, chosen.training.weight_decay) == (1.25, 1.25, 1e-3)
    assert (chosen.data.train, chosen.training.optimizer, chosen.training.batch) == ("train", "sgd", 128)
    assert not any(run.data.test for run in select.values())
    final = files("vpt-deep", "vtab/dtd", "final", "runs", settings=(2.5, 1e-3), path="/data")
    assert [run.seed for run in final.values()] == [42, 44, 82, 100, 800]
    last = final["seed82"]
    assert (last.data.train, last.data.path, last.training.lr) == ("trainval", "/data", 1.25)
    assert last.data.test
    assert (last.images.resize, last.images.augment, last.images.mean) == ("direct", [], (0.485, 0.456, 0.406))
    assert len(files("vpt-shallow", "vtab/dtd", "select", "runs")) == 56


def test_fine_grained_tasks_keep_their_validation_images_apart() -> None:
    run = files("cvpt", "fgvc/dogs", "final", "runs")["seed42"]
    assert (run.data.train, run.images.resize) == ("train", "shorter-side")
    assert run.images.augment == ["random-crop", "horizontal-flip"]
    assert (run.training.lr, run.training.weight_decay, run.training.batch) == (2e-4, 1e-5, 16)
    vtab = files("cvpt", "vtab/kitti", "final", "runs")["seed42"]
    assert (vtab.training.lr, vtab.training.weight_decay, vtab.training.batch) == (5e-3, 0.05, 32)


def test_self_prompts_have_a_decay_of_the_head_of_their_own() -> None:
    run = files("spt-deep", "fgvc/cub", "final", "runs")["seed42"]
    assert run.model.name == "mae:mae_pretrain_vit_base.pth"
    assert run.methods[0]["stay"]
    assert (run.training.lr, run.training.weight_decay, run.training.head_weight_decay) == (5e-2, 1e-2, 0.5)
    assert files("spt-deep", "fgvc/dogs", "final", "runs")["seed44"].model.name == "google/vit-base-patch16-224-in21k"


def test_published_rates_are_scaled_by_the_batch() -> None:
    run = files("vpt-deep", "vtab/dmlab", "final", "runs")["seed42"]  # 1.0 at batch 64
    assert (run.training.lr, run.training.batch, run.methods[0]["prompts"]) == (0.25, 64, 100)


def test_the_command_writes_run_files_that_train_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["protocol", "lora", "vtab/eurosat", str(tmp_path / "runs"), "--path", "/data/vtab-1k"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 5
    assert shown[0] == f"gossamer train {tmp_path}/runs/seed42.yaml"
    run, _ = parse([str(tmp_path / "runs" / "seed800.yaml")])
    assert run == files("lora", "vtab/eurosat", "final", str(tmp_path / "runs"), path="/data/vtab-1k")["seed800"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vpt", "vtab/dtd"], "no protocol 'vpt'; there are: vpt-deep, vpt-shallow, spt-deep, cvpt, lora, adaptformer"),
        (["spt-deep", "fgvc/cars"], "no settings of spt-deep on fgvc/cars; they did on fgvc/cub, fgvc/dogs"),
        (["cvpt", "desk/count"], "no task 'desk/count' with published settings; there are: vtab/cifar"),
        (["cvpt", "vtab/dtd", "--stage", "test"], "no stage 'test'; there are: select, final"),
        (
            ["vpt-deep", "vtab/dtd"],
            "published no learning rate of vpt-deep on vtab/dtd: choose one with --stage select",
        ),
        (["cvpt", "vtab/dtd", "--lr", "1"], "--lr and --weight-decay are chosen together; give both or neither"),
    ],
)
def test_mistakes_are_explained(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["protocol", *arguments[:2], str(tmp_path / "runs"), *arguments[2:]]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
