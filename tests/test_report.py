from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from gossamer import report
from gossamer.tasks.classifying_images import score

RECORDS = [
    {"epoch": 1, "loss": 0.7, "val_loss": 0.6, "val_accuracy": 0.5},
    {"epoch": 2, "loss": 0.4, "val_loss": 0.5, "val_accuracy": 0.75},
]


def colours(path: Path) -> int:
    """Number of distinct colours: a picture with nothing in it has few."""
    with Image.open(path) as image:
        found = image.convert("RGB").getcolors(maxcolors=1 << 24)
    return len(found or [])


def test_curves_with_and_without_validation(tmp_path: Path) -> None:
    report.curves(RECORDS, tmp_path / "a.png")
    report.curves([{"epoch": 1, "loss": 0.7}], tmp_path / "b.png")
    assert colours(tmp_path / "a.png") > 50
    assert colours(tmp_path / "b.png") > 50


@pytest.mark.parametrize("classes", [3, 45])
def test_confusion_of_few_and_many_classes(tmp_path: Path, classes: int) -> None:
    labels = torch.arange(2 * classes) % (classes - 1)  # the last class has no images
    logits = torch.randn(len(labels), classes)
    scores = score(logits, labels, [f"class {i}" for i in range(classes)])
    report.confusion(scores.confusion, list(scores.recall), tmp_path / "a.png", title="some")
    assert colours(tmp_path / "a.png") > 50


def test_equal_runs_give_equal_pictures(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        report.curves(RECORDS, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_accuracy_against_compute(tmp_path: Path) -> None:
    rows = {
        "linear": {"accuracy": 0.8, "gmacs": 0.806, "bare_gmacs": 0.806, "trainable_parameters": 770},
        "vpt": {
            "accuracy": 0.85,
            "gmacs": 0.810,
            "bare_gmacs": 0.806,
            "trainable_parameters": 46_850,
            "latency_ratio_at_1": 1.1,
        },
    }
    report.accuracy_against_compute(rows, tmp_path / "a.png", title="some")
    assert colours(tmp_path / "a.png") > 50


def test_the_frontier_leaves_out_what_is_neither_cheaper_nor_better() -> None:
    points = [(3.0, 80.0), (1.0, 70.0), (2.0, 70.0), (2.0, 75.0), (4.0, 79.0)]
    assert report.frontier(points) == [(1.0, 70.0), (2.0, 75.0), (3.0, 80.0)]


@pytest.mark.slow
def test_matplotlib_is_imported_only_for_pictures() -> None:
    code = "import sys, gossamer.pictures, gossamer.report, gossamer.training.train; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(Path(report.__file__).parents[1])})
