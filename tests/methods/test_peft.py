"""Configurations of the peft library as methods: what is placed where, counted, merged, and refused."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest
import torch
from peft import (
    AdaLoraConfig,
    FourierFTConfig,
    HRAConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PrefixTuningConfig,
    TrainableTokensConfig,
    VeraConfig,
)
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

import gossamer as gm
from gossamer import architectures, methods
from gossamer.errors import UserError

from ..contract.table import BACKBONES, disturb, run


def adapted_model(row: str, *configs: Any) -> gm.Adapted:
    torch.default_generator.manual_seed(3)
    return gm.adapt(BACKBONES[row].model(), list(configs)).eval()


def places(adapted: gm.Adapted) -> set[str]:
    """Where tensors were added: `vision.blocks.0.q`, ..."""
    return {n.partition(".")[2].partition(".lora_")[0] for n in adapted.trainable() if ".lora_" in n}


# ---- where ----

ROLES: list[tuple[str, Any, set[str]]] = [
    ("vit", None, {"q", "v"}),
    ("timm", None, {"q", "v"}),
    ("bert", ["k", "out"], {"k", "out"}),
    ("timm", ["k", "up"], {"k", "up"}),
    ("dinov2-swiglu", ["gate", "down"], {"gate", "down"}),
    ("llama-classifier", ["gate", "q"], {"gate", "q"}),
    ("vilt", ["v", "up"], {"v", "up"}),
    ("vit", ["fc1"], {"up"}),
    ("timm", ["qkv"], {"qkv"}),
    ("vit", r".*layers\.[12]\..*q_proj", {"q"}),
]


@pytest.mark.parametrize(("row", "targets", "roles"), ROLES)
def test_roles_mean_the_same_in_every_family(row: str, targets: Any, roles: set[str]) -> None:
    adapted = adapted_model(row, LoraConfig(r=2, target_modules=targets))
    blocks = adapted.anatomy.blocks()[1 if isinstance(targets, str) else 0 :]
    assert places(adapted) == {f"{b.key}.{role}" for b in blocks for role in roles}


def test_cross_attention_is_attention() -> None:
    adapted = adapted_model("bart", LoraConfig(r=2))
    blocks = {f"{b.key}.{role}" for b in adapted.anatomy for role in ("q", "v")}
    assert places(adapted) == blocks | {f"decoder.blocks.{i}.cross.{role}" for i in (0, 1) for role in ("q", "v")}


@pytest.mark.parametrize("targets", [["cross.q", "cross.out"], ["decoder.cross.q", "cross.out"]])
def test_cross_attention_alone(targets: list[str]) -> None:
    adapted = adapted_model("bart", LoraConfig(r=2, target_modules=targets))
    assert places(adapted) == {f"decoder.blocks.{i}.cross.{role}" for i in (0, 1) for role in ("q", "out")}
    with pytest.raises(ValueError, match=r"has no cross\.q; its blocks have "):
        adapted_model("vit", LoraConfig(r=2, target_modules=["cross.q"]))


def test_names_that_are_modules_of_the_model_are_peft_s_own() -> None:
    """T5's Linears are called q and v: then they are names and not roles, and mean what they mean in peft."""
    assert places(adapted_model("t5", LoraConfig(r=2, target_modules=["q"]))) >= {"decoder.blocks.1.cross.q"}


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["gate"], "ViTForImageClassification has no gate; its blocks have down, k, norm1, norm2, out, q, up, v"),
        (["query", "value"], "not found in the base model"),
    ],
)
def test_targets_that_match_nothing(targets: list[str], message: str) -> None:
    model = BACKBONES["vit"].model()
    structure = repr(model)
    with pytest.raises(ValueError, match=message):
        gm.adapt(model, LoraConfig(target_modules=targets))
    assert repr(model) == structure


# ---- counts ----

COUNTS: list[tuple[str, Any, int]] = [
    ("vit-b16", LoraConfig(r=8), 294_912),
    ("vit-b16", LoraConfig(r=4), 147_456),
    ("vilt-b32", LoraConfig(r=4), 147_456),
    ("vit-b16", LoraConfig(r=8, target_modules=["q", "k", "v", "out"]), 589_824),
    ("vit-b16", LoraConfig(r=8, bias="all"), 294_912 + 102_912),
]


@pytest.mark.parametrize(("model", "config", "count"), COUNTS)
def test_counts_of_the_papers(model: str, config: Any, count: int) -> None:
    adapted = gm.adapt(architectures.build(model), config, num_labels=100)
    assert sum(p.numel() for n, p in adapted.trainable().items() if not n.startswith("head")) == count
    if config.bias == "none":
        assert methods.as_method(config).parameters(gm.read(architectures.build(model))) == count


def test_one_lora_on_a_fused_projection_counts_as_two_on_its_thirds() -> None:
    """r (d + 3 d) and 2 r (d + d); but another model, since the first adapts the keys as well."""
    sizes = [
        sum(p.numel() for n, p in adapted_model("timm", config).trainable().items() if not n.startswith("head"))
        for config in (LoraConfig(r=2, target_modules=["qkv"]), LoraConfig(r=2))
    ]
    assert sizes == [3 * 2 * (12 + 36), 3 * 2 * 2 * (12 + 12)] == [288, 288]


def test_counting_changes_nothing() -> None:
    model = BACKBONES["timm"].model()
    structure, method = repr(model), methods.as_method(LoraConfig(r=2))
    assert method.parameters(gm.read(model)) == 288
    assert method.overhead(gm.read(model), {"vision": 17}) == (17 * 288, 0)
    assert repr(model) == structure


def test_other_tuners_have_no_closed_formula_and_say_so() -> None:
    for config in (IA3Config(), LoraConfig(use_dora=True), LoraConfig(bias="all")):
        with pytest.raises(ValueError, match="no closed formula for this"):
            methods.as_method(config).parameters(gm.read(BACKBONES["vit"].model()))


# ---- the function ----


@pytest.mark.parametrize("row", ["vit", "timm"])
def test_lora_by_hand(row: str) -> None:
    """W x + (alpha / r) B A x, with A and B as they are saved."""
    adapted = disturb(adapted_model(row, LoraConfig(r=2, lora_alpha=7)))
    state, model = adapted.state_dict(), BACKBONES[row].model()
    with torch.no_grad():
        for block in gm.read(model).blocks():
            for i, role in ((0, "q"), (2, "v")):
                a, b = (state[f"peft.{block.key}.{role}.lora_{x}.weight"] for x in "AB")
                fused = block.attention.fused is not None
                weight = block.part("qkv").weight[12 * i : 12 * i + 12] if fused else block.part(role).weight
                weight += 3.5 * b @ a
        heads = {n: m for n, m in model.named_modules() if m is not None and n in ("classifier", "head")}
        next(iter(heads.values())).load_state_dict({"weight": state["head.weight"], "bias": state["head.bias"]})
    inputs = BACKBONES[row].inputs()
    torch.testing.assert_close(run(adapted, inputs), run(model, inputs), rtol=1e-5, atol=1e-5)


def test_dropout_of_lora_is_on_in_training_over_a_quiet_backbone() -> None:
    adapted, inputs = disturb(adapted_model("vit", LoraConfig(r=2, lora_dropout=0.5))), BACKBONES["vit"].inputs()
    assert torch.equal(adapted(**inputs).logits, adapted(**inputs).logits)
    adapted.train()
    assert not torch.equal(adapted(**inputs).logits, adapted(**inputs).logits)
    assert {m.training for n, m in adapted.backbone.named_modules() if n.endswith("base_layer")} == {False}
    assert not adapted.backbone.vit.layers[0].training
    assert torch.equal(adapted.eval()(**inputs).logits, adapted(**inputs).logits)


TUNERS: dict[str, tuple[str, Any]] = {
    "dora": ("vit", LoraConfig(r=2, use_dora=True)),
    "rslora": ("vit", LoraConfig(r=2, use_rslora=True)),
    "all biases": ("bert", LoraConfig(r=2, bias="all")),
    "another module": ("bert", LoraConfig(r=2, modules_to_save=["pooler"])),
    "tokens": ("bert", LoraConfig(r=2, trainable_token_indices=[3, 49])),
    "embeddings": ("bert", LoraConfig(r=2, target_modules=["word_embeddings"])),
    "all linear": ("timm", LoraConfig(r=2, target_modules="all-linear")),
    "adalora": ("vit", AdaLoraConfig(total_step=9)),
    "loha": ("vit", LoHaConfig(r=2)),
    "lokr": ("vit", LoKrConfig(r=2)),
    "hra": ("vit", HRAConfig(r=2)),
    "vera": ("vit", VeraConfig(r=2)),
    "ia3": ("llama-classifier", IA3Config()),
    "two": ("vit", [LoraConfig(r=2, target_modules=["q"]), IA3Config(target_modules=["k"], feedforward_modules=[])]),
    "two loras": ("timm", [LoraConfig(r=2, target_modules=["q"]), LoraConfig(r=3, target_modules=["k", "up"])]),
}


@pytest.mark.parametrize(("row", "configs"), TUNERS.values(), ids=list(TUNERS))
def test_merged_is_unmerged_and_nothing_is_left_behind(row: str, configs: Any) -> None:
    model, inputs = BACKBONES[row].model(), BACKBONES[row].inputs()
    before, structure = {k: v.clone() for k, v in model.state_dict().items()}, repr(model)
    torch.default_generator.manual_seed(3)
    adapted = disturb(gm.adapt(model, configs).eval())
    names = [n for n, _ in adapted.named_parameters() if adapted.get_parameter(n).requires_grad]
    assert len(names) == len(adapted.trainable()) == len({id(p) for p in adapted.trainable().values()})
    trained = run(adapted, inputs)
    finished = adapted.finalize()
    torch.testing.assert_close(run(finished, inputs), trained, rtol=1e-5, atol=1e-5)
    assert not any("lora" in type(m).__module__ for m in finished.modules())
    adapted.detach()
    assert repr(model) == structure
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(run(adapted.attach().eval(), inputs), trained)


def test_norms_alone() -> None:
    """Every norm of the backbone: LayerNorm tuning, 38,400 on ViT-B/16."""
    config = LNTuningConfig(target_modules=["layernorm_before", "layernorm_after", "layernorm"])
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Unsupported layer type"
        )  # of its base class; LNTuning knows norms only
        adapted = gm.adapt(architectures.build("vit-b16"), config, num_labels=10)
    assert sum(p.numel() for n, p in adapted.trainable().items() if not n.startswith("head")) == 38_400


# ---- heads ----


def test_the_head_is_trained_once_even_if_peft_is_told_to() -> None:
    """As the examples of peft for image classification have it."""
    config = LoraConfig(r=2, modules_to_save=["classifier"])
    adapted = adapted_model("vit", config)
    assert [n for n in adapted.trainable() if "lora" not in n] == ["head.weight", "head.bias"]
    assert isinstance(adapted.head, nn.Linear)
    assert adapted.features(**BACKBONES["vit"].inputs()).shape == (3, 12)
    assert config.modules_to_save == ["classifier"]  # a configuration is never changed


def test_a_configuration_saved_for_inference_is_trained_all_the_same() -> None:
    adapted = adapted_model("vit", LoraConfig(r=2, inference_mode=True))
    assert len(places(adapted)) == 6


# ---- refusals ----

REFUSED: list[tuple[Any, str]] = [
    (
        PrefixTuningConfig(num_virtual_tokens=4),
        r"PrefixTuningConfig feeds its prompts .* use gossamer's VPT\(deep=False, prompts=4\)",
    ),
    (
        LoraConfig(init_lora_weights="pissa"),
        "init_lora_weights='pissa' subtracts LoRA's start from the backbone's own weights",
    ),
    (LoraConfig(init_lora_weights="olora"), "use True, 'gaussian' or 'orthogonal'"),
    (LoraConfig(layer_replication=[(0, 2), (1, 3)]), "layer_replication adds layers to the backbone"),
]


@pytest.mark.parametrize(("config", "message"), REFUSED, ids=[m[:20] for _, m in REFUSED])
def test_what_would_change_the_backbone_is_refused(config: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gm.adapt(BACKBONES["vit"].model(), config)


def test_two_tuners_on_one_module_are_refused() -> None:
    model = BACKBONES["vit"].model()
    structure = repr(model)
    with pytest.raises(
        ValueError, match=r"both target vit\.layers\.0\.attention\.q_proj; give each its own target_modules"
    ):
        gm.adapt(model, [LoraConfig(r=2), LoraConfig(r=3, target_modules=["q", "k"])])
    assert repr(model) == structure


def test_an_error_inside_peft_leaves_the_model_as_it_was() -> None:
    """OFT refuses the second target, when the first is in place already."""
    model = BACKBONES["bert"].model()
    structure, before = repr(model), {k: v.clone() for k, v in model.state_dict().items()}
    config = LoraConfig(r=2, target_modules=["query", "LayerNorm"])
    with pytest.raises(ValueError, match="LayerNorm"):
        gm.adapt(model, config)
    assert repr(model) == structure
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert "peft_config" not in model.__dict__


# ---- as JSON ----

CONFIGS: list[Any] = [
    LoraConfig(), AdaLoraConfig(total_step=9), IA3Config(), LNTuningConfig(), OFTConfig(oft_block_size=2, r=0), LoHaConfig(),
    LoKrConfig(), HRAConfig(), VeraConfig(), FourierFTConfig(), TrainableTokensConfig(token_indices=[3]),
]  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS, ids=[type(c).__name__ for c in CONFIGS])
def test_every_configuration_survives_json(config: Any) -> None:
    values = methods.to_dict(methods.as_method(config))
    again = methods.from_dict(json.loads(json.dumps(values)))
    assert methods.to_dict(again) == values
    assert type(again.config) is type(config)  # type: ignore[attr-defined]


def test_settings_survive_json() -> None:
    config = LoraConfig(
        r=3, lora_alpha=5, target_modules=["q", "v"], bias="all", rank_pattern={"q_proj": 1}, use_rslora=True
    )
    again = methods.from_dict(json.loads(json.dumps(methods.to_dict(methods.as_method(config)))))
    assert again.config == config  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "peft"}, r"peft_type is None; peft knows .*LORA"),
        ({"method": "peft", "peft_type": "LORAX"}, r"peft_type is 'LORAX'; peft knows"),
        ({"method": "peft", "peft_type": "LORA", "rank": 3}, "rank"),
        ({"method": "peft", "peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3}, "feeds its prompts"),
    ],
)
def test_json_that_is_no_configuration(values: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        methods.from_dict(values)


class Grouped(nn.Linear):
    """Reads two groups of columns of its own: no Linear can stand beside it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("...gi,goi->...go", x, self.weight.unflatten(0, (2, -1)))


class Choosing(nn.Linear):
    """As a router: what it gives, and which is largest."""

    def forward(self, x: torch.Tensor) -> Any:
        scores = super().forward(x)
        return scores, scores.argmax(-1)


class Casting(nn.Linear):
    """Still a Linear."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.to(self.weight.dtype))


def test_linears_that_compute_something_else_are_left_alone() -> None:
    """DeepSeek V4's grouped projections and Llama 4's routers are Linears by class: beside them LoRA was taken, and then broke."""

    class Model(PreTrainedModel):
        def __init__(self) -> None:
            super().__init__(PreTrainedConfig())
            self.first, self.casting = nn.Linear(6, 6), Casting(6, 6)
            self.grouped, self.router = Grouped(3, 8), Choosing(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.grouped(self.casting(self.first(x)).unflatten(-1, (2, 3))).flatten(-2)
            scores, best = self.router(x)
            return scores.gather(-1, best[..., None])

    model = Model()
    adapted = gm.adapt(model, LoraConfig(r=2, target_modules="all-linear"), head=())
    assert {name.split(".lora_")[0] for name in adapted.trainable()} == {"peft.first", "peft.casting"}
    adapted(torch.randn(2, 5, 6)).sum().backward()
    for name, kind in (("grouped", "Grouped"), ("router", "Choosing")):
        with pytest.raises(UserError, match=f"{name} is a {kind}, a Linear that computes more than one"):
            gm.adapt(Model(), LoraConfig(r=2, target_modules=["first", name]), head=())
