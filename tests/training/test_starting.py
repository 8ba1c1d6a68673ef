from __future__ import annotations

import re

import pytest

from gossamer.training import starting


@pytest.mark.parametrize(
    ("keep", "accuracies", "items", "said"),
    [
        ("last", (0.8, 0.1), 30, None),
        ("best", (0.8, 0.9, 0.7), 30, None),
        ("best", (0.8, 0.8, 0.7), 30, "no epoch was better than the start, recall 80.00%: that is kept"),
        ("better", (0.8, 0.5, 0.88), 30, None),
        (
            "better",
            (0.8, 0.95, 0.87),
            30,
            "start .epoch 0. is kept, recall 80.00% on 30 .* the last epoch, 87.00%, .* error, 7.30%",
        ),
        ("better", (0.8, 0.95, 0.87), 200, None),
        ("better", (1.0, 1.0), 10, "start .epoch 0. is kept, recall 100.00% on 10 validation items"),
    ],
)
def test_the_start_is_kept_unless_training_is_better(
    keep: str, accuracies: tuple[float, ...], items: int, said: str | None
) -> None:
    """One standard error of 0.8 is 0.073 on 30 items, and 0.028 on 200."""
    history = [{"epoch": epoch, "val_accuracy": accuracy} for epoch, accuracy in enumerate(accuracies)]
    why = starting.preferred(history, keep, items, "recall")
    if said is None:
        assert why is None
    else:
        assert why is not None
        assert re.search(said, why)
