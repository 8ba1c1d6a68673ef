"""`family=`: blocks that no family describes, read as those of one that the user names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as tf
from peft import LoraConfig
from torch import nn

import gossamer as gm
from gossamer import cli

from ..contract.backbones import LLAMA, VISION
from ..contract.table import BACKBONES, disturb, run

pytestmark = pytest.mark.usefixtures("uncounted")


def _unknown(model: nn.Module) -> nn.Module:
    """A model whose type nobody knows."""
    for module in model.modules():
        if "config" in vars(module):
            module.config.model_type = "nobodys"
    return model


def _llama() -> nn.Module:
    torch.default_generator.manual_seed(1)
    return _unknown(tf.LlamaForCausalLM(tf.LlamaConfig(**LLAMA))).eval()


def test_it_is_adapted_as_the_family_itself_and_comes_back(tmp_path: Path) -> None:
    inputs = BACKBONES["llama"].inputs()
    with pytest.raises(TypeError, match="say family='llama', or add its model type"):
        gm.adapt(_llama(), gm.VPT(prompts=3))
    adapted = disturb(gm.adapt(_llama(), [gm.VPT(prompts=3), LoraConfig(r=2, target_modules=["q"])], family="llama"))
    torch.default_generator.manual_seed(1)
    known = gm.adapt(tf.LlamaForCausalLM(tf.LlamaConfig(**LLAMA)).eval(), list(adapted.applied))
    known.load_state_dict({k: v for k, v in adapted.state_dict().items() if k != "_extra_state"}, strict=False)
    expected = run(known.eval(), inputs)
    assert torch.equal(run(adapted.eval(), inputs), expected)
    adapted.save_pretrained(tmp_path / "one")
    again = gm.load(tmp_path / "one", _llama())
    assert again.family_named == "llama"
    assert torch.equal(run(again, inputs), expected)
    torch.testing.assert_close(run(again.finalize(), inputs), expected, rtol=0, atol=1e-5)


def test_a_model_that_is_known_in_part() -> None:
    """The tower keeps its own family; the language model alone is read as the one that was named."""
    model = BACKBONES["llava"].model()
    _unknown(model.model.language_model)
    found = gm.read(model, family="llama")
    assert {name: blocks[0].stack.owners[0] for name, blocks in found.stacks.items()} == {
        "vision": "clip_vision_model",
        "decoder": "llama",
    }


@pytest.mark.parametrize(("family", "message"), [
    ("lama", r"no family 'lama': there are llama.* and others"),
    ("bert", r"cannot be read as 'bert': it has no list of blocks that no family describes, where"),
    ("qwen3", r"cannot be read as 'qwen3': model\.layers\.0 \(LlamaDecoderLayer\) has no self_attn.q_norm"),
    ("gemma2", r"cannot be read as 'gemma2': model\.layers\.0 \(LlamaDecoderLayer\) has no pre_feedforward_layernorm"),
])  # fmt: skip
def test_what_cannot_be_is_said(family: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gm.read(_llama(), family=family)


def test_a_trial_must_hold() -> None:
    """A block with all parts of the family's, whose FFN stands beside its attention."""
    model = tf.ViTModel(tf.ViTConfig(**VISION))
    _unknown(model)

    class Beside(type(model.layers[0])):  # type: ignore[misc]
        def forward(self, hidden_states: torch.Tensor, **kwargs: object) -> torch.Tensor:
            attended = self.attention(self.layernorm_before(hidden_states))[0]
            return hidden_states + attended + self.mlp(self.layernorm_after(hidden_states))

    model.layers[1].__class__ = Beside
    message = r"cannot be read as 'vit': layers\.1 \(Beside\) .* what follows does not read the sum of the stream and attention"
    with pytest.raises(TypeError, match=message):
        gm.adapt(model, gm.VPT(prompts=3), family="vit")


def test_a_family_that_is_not_needed_is_told() -> None:
    with pytest.raises(TypeError, match="no list of blocks that no family describes"):
        gm.read(BACKBONES["llama"].model(), family="llama")


def test_inspect_says_which_and_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A config.json of a model that no family knows, whose blocks have all parts of LLaMA's."""
    config = tf.DogeConfig(**LLAMA)
    config.save_pretrained(tmp_path)
    assert cli.main(["inspect", str(tmp_path)]) == 2
    assert "DogeDecoderLayer at layers has all parts of the blocks of llama, mistral" in capsys.readouterr().err
    assert cli.main(["inspect", str(tmp_path), "--family", "llama"]) == 0
    assert "decoder stack (main): 3 blocks DogeDecoderLayer" in capsys.readouterr().out


def test_what_is_done_to_keys_and_not_said_is_found() -> None:
    """Hunyuan norms queries and keys, which LLaMA's description does not say: prompts run as tokens, and are told to."""
    model = _unknown(tf.HunYuanDenseV1ForCausalLM(tf.HunYuanDenseV1Config(**LLAMA, head_dim=6))).eval()
    with pytest.warns(
        UserWarning, match=r"from what it makes of the same tokens in front: something is done to its queries"
    ):
        gm.adapt(model, gm.VPT(prompts=3), family="llama")
