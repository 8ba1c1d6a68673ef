"""peft's own tests of what all its methods have in common, run on ours: imported from its source, which its wheel does not bring.

`make test-peft` fetches the source of the locked version and runs this. What is left out is named here, with the reason.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

import gossamer.peft as door

SOURCE = os.environ.get("PEFT_TESTS")  # the folder of peft's tests
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SOURCE is None, reason="peft's tests are not here: make test-peft"),
    pytest.mark.filterwarnings("ignore"),  # theirs are not free of them
]
METHODS: dict[str, dict[str, Any]] = {
    "VPT": {"prompts": 3}, "CVPT": {"prompts": 3}, "DAS": {"skip": (1,), "rank": 4}, "APT": {},
    "Adapter": {"rank": 3, "placement": "houlsby"}, "SSF": {},
}  # fmt: skip
SIZES: dict[str, Any] = {
    "hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 20, "initializer_range": 0.3,
}  # fmt: skip
WORDS: dict[str, Any] = {**SIZES, "vocab_size": 50, "pad_token_id": 0}
KINDS: dict[str, tuple[type, str]] = {
    "bert": (tf.AutoModelForSequenceClassification, "SEQ_CLS"), "llama": (tf.AutoModelForCausalLM, "CAUSAL_LM"),
}  # fmt: skip


def suite() -> Any:
    """peft's class of common tests, as a package of its own beside ours."""
    package = types.ModuleType("tests_of_peft")
    package.__path__ = [str(SOURCE)]
    sys.modules.setdefault("tests_of_peft", package)
    return importlib.import_module("tests_of_peft.testing_common").PeftCommonTester


def names() -> list[str]:
    """The tests that take a model and a configuration."""
    wanted = ["self", "model_id", "config_cls", "config_kwargs"]
    found = {} if SOURCE is None else {n: f for n, f in vars(suite()).items() if n.startswith("_test_")}
    return [name for name, test in found.items() if list(inspect.signature(test).parameters) == wanted]


def left_out(test: str, method: str, kind: str) -> str | None:
    """Why a test is not for a method; None where it is."""
    if "merge" in test and test != "_test_safe_merge":
        return "nothing of ours is merged while it stays an adapter: refused in words (tests/test_peft_door.py)"
    if (test.startswith("_test_generate") or test == "_test_disable_adapter") and kind != "llama":
        return "the model writes nothing"
    if method == "SSF" and test == "_test_get_base_model_state_dict":
        return "what stands in place of a module has it inside: peft knows that of its own layers alone"
    if method == "Adapter" and test in ("_test_disable_adapter", "_test_unload_adapter", "_test_safe_merge"):
        return "it starts as the identity, and the test wants a start that is none"
    return None


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of tiny models."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    writer = tf.LlamaConfig(**WORDS, num_key_value_heads=1, bos_token_id=1, eos_token_id=2)
    tf.BertForSequenceClassification(tf.BertConfig(**WORDS, num_labels=5)).save_pretrained(folder / "bert")
    tf.LlamaForCausalLM(writer).save_pretrained(folder / "llama")
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("test", names())
def test_peft_s_own(test: str, method: str, kind: str, models: Path) -> None:
    if (why := left_out(test, method, kind)) is not None:
        pytest.skip(why)

    class Own(suite()):  # type: ignore[misc]
        transformers_class, task = KINDS[kind]

        def prepare_inputs_for_testing(self) -> dict[str, torch.Tensor]:
            ids = torch.tensor([[1, 1, 1], [1, 2, 1]])
            return {"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 1]])}

    torch.manual_seed(0)
    settings = {**METHODS[method], "task_type": Own.task}
    getattr(Own(), test)(str(models / kind), door.CONFIGURATIONS[f"{method}Config"], settings)
