"""What is kept beside a cache, and what is known of a batch."""

from __future__ import annotations

import copy

import pytest
import torch

import gossamer as gm
from gossamer.anatomy.call import Arguments
from gossamer.anatomy.session import Layout
from tests.contract.table import BACKBONES, METHODS, adapt, disturb


def test_a_copy_of_a_cache_goes_on_with_its_prompts() -> None:
    """One prefix, two continuations: as if each text had been read from its start."""
    adapted = disturb(adapt(BACKBONES["llama"], METHODS["vpt-sequence"])).eval()
    prefix, one, two = torch.tensor([[5, 1, 7]]), torch.tensor([[2, 9]]), torch.tensor([[8, 3, 4]])
    with torch.no_grad():
        kept = adapted(input_ids=prefix, use_cache=True).past_key_values
        for rest in (one, two):
            given = {Arguments(adapted.backbone).names["cache"]: copy.deepcopy(kept)}
            found = adapted(input_ids=rest, use_cache=True, **given).logits
            expected = adapted(input_ids=torch.cat([prefix, rest], dim=1)).logits[:, prefix.shape[1] :]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("mask", "index", "expected"),
    [
        (None, None, Layout("none", "all")),
        ([[1, 1, 1], [1, 1, 1]], [1, 0], Layout("none", "all")),
        ([[1, 1, 0], [1, 1, 1]], [0, -1], Layout("right", "some")),
        ([[0, 1, 1], [1, 1, 1]], [-1, -1], Layout("left", "none")),
    ],
)
def test_a_layout_is_read_from_masks_and_indices(mask, index, expected: Layout) -> None:
    tensors = [None if given is None else torch.tensor(given) for given in (mask, index)]
    assert Layout.of(*tensors) == expected


@pytest.mark.parametrize("method", ["dvp", "memvp", "visual-tokens"])
@pytest.mark.parametrize("index", [None, [1, 0, 1], [0, -1, 2], [-1, -1, -1]])
def test_what_is_known_of_a_batch_changes_nothing(method: str, index: list[int] | None) -> None:
    adapted = disturb(adapt(BACKBONES["clip+bert"], METHODS[method])).eval()
    inputs = BACKBONES["clip+bert"].inputs()
    if index is not None:
        inputs["image_index"] = torch.tensor(index)
    said = Layout.of(inputs["attention_mask"], inputs.get("image_index"))
    careful = Layout("right", "some" if index is not None else "all")
    with torch.no_grad():
        looked = adapted(**inputs).logits
        for layout in (said, careful):
            torch.testing.assert_close(adapted(**inputs, layout=layout).logits, looked, atol=1e-5, rtol=0)


def test_a_text_that_is_said_to_be_padded_on_the_left_is_refused_without_a_look() -> None:
    adapted = adapt(BACKBONES["clip+bert"], METHODS["memvp"])
    with pytest.raises(gm.errors.UserError, match="pad on the right"):
        adapted(**BACKBONES["clip+bert"].inputs(), layout=Layout("left", "all"))
