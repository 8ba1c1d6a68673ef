"""A finished adapter as a file for other runtimes: ONNX, OpenVINO's, or a program of torch.export; checked and measured.

What is written is `adapted.finalize()`: prompt keys and values stored, projections folded, nothing that only training needs. The
first dimension of every input is free, so a file serves any batch, and so are sizes of images and lengths of texts where that is
asked for and the model can. The file says what it is, and the same stands beside it as JSON.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer import hosts, saving
from gossamer.adapted import Finished
from gossamer.cost.measure import measure
from gossamer.errors import MissingPackage, UserError
from gossamer.exported import NOTE, SUFFIX, WEIGHTS, Answer, answers, openvino
from gossamer.models.vilt import see_whole_images
from gossamer.version import __version__

if TYPE_CHECKING:
    from gossamer.adapting import Adapted
    from gossamer.data import ImageDataset

# Largest difference of an exported model's logits from the adapter's, against their largest magnitude or 1.
TOLERANCE = 1e-4
REPEATS = {1: 15, 32: 5}  # samples of a batch -> how often its time is measured
WHAT = {"image": "images of any size", "text": "texts of any length"}
"""What may be free beside the number of samples, in words."""
HALF = (torch.bfloat16, torch.float16)
Format = Literal["onnx", "openvino", "torch"]


class Logits(nn.Module):
    """A finished model that takes its inputs as positional tensors and gives the logits, as exporters like it."""

    def __init__(self, finished: nn.Module, names: Sequence[str], options: Mapping[str, Any] = MappingProxyType({})):
        super().__init__()
        self.finished, self.names, self.options = finished, tuple(names), dict(options)
        self.host = None if isinstance(finished, Finished) else hosts.of(finished)

    def forward(self, *tensors: Tensor) -> Tensor:
        """Logits [B, C] of the inputs, in the order of their names."""
        named = dict(zip(self.names, tensors, strict=True)) | self.options
        output = self.finished(**named) if self.host is None else self.host.run(self.finished, (), named)
        return output if isinstance(output, Tensor) else output.logits


def export(
    adapted: Adapted,
    inputs: Mapping[str, Tensor],
    file: str | os.PathLike[str],
    *,
    format: Format = "onnx",
    int8: bool = False,
    free: Sequence[Literal["image", "text"]] = (),
) -> dict[str, Any]:
    """Writes the finished model to a file, checks that file against the adapter, and measures it.

    Args:
        adapted: a classifier, or another model with `.logits`.
        inputs: example inputs with 2 or more samples; the file takes inputs of these names, with any number of samples.
        file: where to; its folder must exist. An older file is replaced once the new one is found right.
        format: "onnx" needs the extra `export`; "openvino" the extra `openvino`, and FILE, which ends in .xml, has its weights
            beside it, in a file that ends in .bin; "torch" is read back by `torch.export.load`.
        int8: weights of the matrix products as 8-bit integers, activations scaled as they come (onnxruntime's dynamic
            quantisation).
            Only for ONNX; not equal to the adapter, so it is not held to `TOLERANCE`: measure its accuracy.
        free: what the file takes in any size beside the number of samples: "image" (not for torch.export; the model resizes its
            table of positions), "text" (up to the model's longest). Checked at another size than that of `inputs` too.

    Returns:
        {"file", "format", "int8", "dtype", "mib", "difference", "latency"}: `difference` is the largest of the logits, all samples
        at once and the first one alone; `latency` has a record for 1 and for 32 samples, {"batch", "torch", "exported"}:
        milliseconds of the finished model here and of the file in its runtime, medians of runs that took turns. A model of 16-bit
        weights becomes one of float32 in ONNX and OpenVINO, whose runtimes compute in few of them on processors: `dtype` says which
            it is.
        This, and what `described` says, is written to FILE.json.

    Raises:
        ValueError: fewer than 2 samples, int8 or free images for torch.export, a model that cannot be traced, or not with what is
            to be free, or the file's answers differ by more than `TOLERANCE`; nothing is written then.
        ImportError: the extra is not installed.
    """
    file, names = Path(file), list(inputs)
    _check(inputs, file, format, int8, free)
    if not file.parent.is_dir():
        raise FileNotFoundError(f"cannot export to {file}: there is no folder {file.parent}")
    finished, tensors = _finished(adapted, inputs, format)
    model = Logits(finished, names, _resizing(adapted) if "image" in free else {}).eval()
    said = json.dumps(described(adapted, tensors, free))
    staged = file.with_name(f".{file.stem}.new{SUFFIX[format]}")
    try:
        _written(model, adapted, tensors, staged, said, format, free)
        if int8:
            _quantise(staged)
        answer = answers(staged)
        difference = max(_difference(model, answer, some) for some in (tensors, _varied(tensors, free)))
        if not int8 and not difference <= TOLERANCE:
            raise UserError(
                f"the exported model's logits differ from the adapter's by {difference:.2g}, more than {TOLERANCE:g}; nothing "
                "was written"
            )
        latency = _latency(model, answer, tensors)
        for old, new in zip(_files(staged, format), _files(file, format), strict=True):
            os.replace(old, new)
    finally:
        for old in _files(staged, format):
            old.unlink(missing_ok=True)
    mib = sum(one.stat().st_size for one in _files(file, format)) / 2**20
    found = {
        "file": file.name, "format": format, "int8": int8, "dtype": _dtype(finished), "mib": mib,
        "difference": difference, "latency": latency,
    }  # fmt: skip
    beside(file).write_text(json.dumps(json.loads(said) | found, indent=2) + "\n")
    return found


def _files(file: Path, format: str) -> list[Path]:
    """An exported file; before it the one that holds its weights, where the format has that."""
    return [file.with_suffix(WEIGHTS), file] if format == "openvino" else [file]


def beside(file: Path) -> Path:
    """Where what an exported file says of itself stands to be read without its runtime."""
    return file.with_name(f"{file.name}.json")


def described(adapted: Adapted, inputs: Mapping[str, Tensor], free: Sequence[str] = ()) -> dict[str, Any]:
    """What an exported file says of itself, as JSON: what its outputs mean, and how an image becomes its input.

    {"gossamer": version, "task", "labels", "preprocessing", ...: as recorded when it was trained; "methods": their names,
    "backbone": name or class, "inputs": {name: {"dtype", "shape"}} with None for free dimensions, "outputs": ["logits"], "cost"}.
    """
    told = saving.describe(adapted)
    recorded = {n: v for n, v in told["metadata"].items() if n not in ("exports", "results")}
    size = recorded.get("preprocessing", {}).get("size")
    return recorded | {
        "gossamer": __version__,
        "methods": [m["method"] for m in told["methods"]],
        "backbone": told["backbone"]["name"] or told["backbone"]["class"],
        "inputs": {
            n: {
                "dtype": str(t.dtype)[6:],
                "shape": [None if i in _free(t, free) else size for i, size in enumerate(t.shape)],
            }
            for n, t in inputs.items()
        },
        "outputs": ["logits"],
        "cost": adapted.cost(**({} if size is None else {"image_size": size})).to_dict(),
    }


def _dtype(model: nn.Module) -> str:
    return str(next(p.dtype for p in model.parameters() if p.is_floating_point()))[6:]


def file_of(run: str | Path, format: str, *, int8: bool) -> Path:
    """The file in a run's folder that its export is written to unless told otherwise.

    Raises:
        ValueError: no such format.
    """
    if format not in SUFFIX:
        raise UserError(f"format must be one of {', '.join(SUFFIX)}, got {format!r}")
    return Path(run) / f"model{'.int8' if int8 else ''}{SUFFIX[format]}"


def export_run(run: str | Path, file: Path, *, format: Format, int8: bool, any_size: bool = False) -> dict[str, Any]:
    """`export` for the classifier of a run's folder, on images of the run; what came of it is added to the model card.

    With int8 `accuracy` and `balanced_accuracy`, of the adapter and of the file, are measured on the run's test images, or on the
    validation ones where there is no test split.
    """
    from gossamer.data import ImageDataset
    from gossamer.evaluate import items_of
    from gossamer.runs.prepared import Prepared
    from gossamer.runs.trained import load_adapter
    from gossamer.tasks.recorded import preprocessing_of

    adapted = load_adapter(run).eval()
    split, images = items_of(str(run), None, None)
    if not isinstance(images, ImageDataset):
        raise UserError(
            f"export is of image classifiers, and the items of {run} are no images with a class each: "
            "gossamer.export.export(adapted, inputs, file) writes any adapter, given inputs of its kind"
        )
    prepared = Prepared(images.subset(range(min(len(images), 8))), preprocessing_of(adapted))
    if len(prepared) < 2:
        raise UserError(
            f"export checks the file on 2 or more images, and the {split} split of {run} has {len(prepared)}"
        )
    pixels = torch.stack([prepared[i]["pixel_values"].to("cpu") for i in range(len(prepared))])
    found = export(
        adapted, {"pixel_values": pixels}, file, format=format, int8=int8, free=["image"] if any_size else []
    )
    if int8:
        found |= {name: {"split": split, **of} for name, of in _scores(adapted, answers(file), images).items()}
    exports = {**adapted.metadata.get("exports", {}), found.pop("file"): found}
    saving.note(Path(run) / "adapter", exports=exports)
    return found


def _finished(adapted: Adapted, inputs: Mapping[str, Tensor], format: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """The finished model and its inputs on the CPU, in float32 where the file's runtime computes nothing in 16 bits."""
    finished = adapted.finalize().eval().cpu()
    tensors = {name: tensor.cpu() for name, tensor in inputs.items()}
    if see_whole_images(finished) and "pixel_mask" in inputs:
        raise UserError("an exported ViLT takes images that fill their batch, so without pixel_mask: leave it out")
    if format != "torch" and any(p.dtype in HALF for p in finished.parameters()):
        return finished.float(), {name: t.float() if t.dtype in HALF else t for name, t in tensors.items()}
    return finished, tensors


def _check(inputs: Mapping[str, Tensor], file: Path, format: str, int8: bool, free: Sequence[str]) -> None:
    if wrong := [name for name in free if name not in WHAT]:
        raise UserError(f"free must be of {', '.join(WHAT)}, got {wrong[0]!r}")
    for name in free:
        if all(len(_free(tensor, [name])) == 1 for tensor in inputs.values()):
            raise UserError(f"free={name!r} is of {WHAT[name]}, and the inputs have none: {', '.join(inputs)}")
    if "image" in free and format == "torch":
        raise UserError(
            "a program of torch.export asks of every image whether it has the trained size, and takes no other then: for images of "
            "any size use format='onnx'"
        )
    if format not in SUFFIX:
        raise UserError(f"format must be one of {', '.join(SUFFIX)}, got {format!r}")
    if format == "openvino" and file.suffix != SUFFIX[format]:
        raise UserError(f"OpenVINO reads files that end in {SUFFIX[format]}; got {file.name}")
    if int8 and format != "onnx":
        raise UserError("int8 is onnxruntime's quantisation: use format='onnx'")
    counts = {name: len(tensor) for name, tensor in inputs.items()}
    if not counts or len(set(counts.values())) > 1 or min(counts.values()) < 2:
        raise UserError(f"export needs example inputs of 2 or more samples, the same number in each; got {counts}")
    if format == "openvino":
        openvino()
    if format != "torch":
        for package in ("onnx", "onnxruntime", "onnxscript"):
            try:
                __import__(package)
            except ImportError as error:
                raise MissingPackage(f"ONNX needs {package}: pip install 'gossamer[export]'") from error


def _written(
    model: nn.Module,
    adapted: Adapted,
    inputs: Mapping[str, Tensor],
    file: Path,
    said: str,
    format: str,
    free: Sequence[str],
) -> None:
    """Writes the file; UserError with the exporter's reason where it cannot."""
    try:
        WRITERS[format](model, _varied(inputs, free), file, said, free)
    except Exception as error:  # of a model of any kind, under a tracer
        raise _untraceable(adapted, format, free, error) from error


def _write_onnx(model: nn.Module, inputs: Mapping[str, Tensor], file: Path, said: str, free: Sequence[str]) -> None:
    tensors = tuple(inputs.values())
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of the exporter, about itself
        program = torch.onnx.export(
            model,
            tensors,
            dynamo=True,
            input_names=list(inputs),
            output_names=["logits"],
            dynamic_shapes=(_shapes(tensors, free),),
        )
    assert program is not None
    program.model.metadata_props[NOTE] = said
    program.save(file)


def _write_torch(model: nn.Module, inputs: Mapping[str, Tensor], file: Path, said: str, free: Sequence[str]) -> None:
    tensors = tuple(inputs.values())
    program = torch.export.export(model, tensors, dynamic_shapes=(_shapes(tensors, free),))
    torch.export.save(program, file, extra_files={f"{NOTE}.json": said})


def _write_openvino(model: nn.Module, inputs: Mapping[str, Tensor], file: Path, said: str, free: Sequence[str]) -> None:
    """By way of ONNX, which OpenVINO reads."""
    between = file.with_suffix(SUFFIX["onnx"])
    try:
        _write_onnx(model, inputs, between, said, free)
        package = openvino()
        graph = package.Core().read_model(between)
        graph.set_rt_info(said, [NOTE])
        package.save_model(graph, file, compress_to_fp16=False)
    finally:
        between.unlink(missing_ok=True)


WRITERS = {"onnx": _write_onnx, "openvino": _write_openvino, "torch": _write_torch}


def _free(tensor: Tensor, free: Sequence[str]) -> tuple[int, ...]:
    """Dimensions of an input that may have any size: samples, height and width of images [B, 3, H, W], tokens of texts [B, n]."""
    images, texts = tensor.dim() == 4 and "image" in free, tensor.dim() == 2 and "text" in free
    return (0, 2, 3) if images else (0, 1) if texts else (0,)


def _shapes(tensors: tuple[Tensor, ...], free: Sequence[str]) -> tuple[dict[int, Any], ...]:
    """What the exporters are told of the dimensions that are free."""
    batch = torch.export.Dim("batch", min=1, max=4096)
    return tuple({i: torch.export.Dim.DYNAMIC if i else batch for i in _free(t, free)} for t in tensors)


def _varied(inputs: Mapping[str, Tensor], free: Sequence[str]) -> dict[str, Tensor]:
    """The same inputs with images of twice and three times their sides, and texts without their last token, where these are free.

    A tracer takes what is the same in its example for what is always the same: a square, the trained size.
    """
    return {name: _other(tensor, free) for name, tensor in inputs.items()}


def _other(tensor: Tensor, free: Sequence[str]) -> Tensor:
    if len(_free(tensor, free)) == 3:
        return F.interpolate(tensor.float(), scale_factor=(2.0, 3.0)).to(tensor.dtype)
    return tensor[:, :-1].clone() if len(_free(tensor, free)) == 2 else tensor  # of a view a tracer remembers the whole


def _resizing(adapted: Adapted) -> dict[str, bool]:
    """What a model has to be told so that it takes images of other sizes; those that always do are told nothing."""
    taken = inspect.signature(adapted.backbone.forward).parameters
    return {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in taken else {}


def _untraceable(adapted: Adapted, format: str, free: Sequence[str], error: Exception) -> UserError:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    reason = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
    wish = f" for {' and '.join(WHAT[name] for name in free)}" if free else ""
    instead = "; without free= the file is for the sizes of the inputs" if free else ""
    return UserError(
        f"this {type(adapted.backbone).__name__} cannot be written as {SUFFIX[format]}{wish}: {reason:.300}{instead}"
    )


def _quantise(file: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(file)
    del model.graph.value_info[:]  # shapes that the exporter inferred for the example batch; they are inferred again
    # Onnxruntime's convolutions of integers are slower than those of numbers.
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    quantize_dynamic(model, file, weight_type=QuantType.QInt8, per_channel=True, nodes_to_exclude=convolutions)


@torch.no_grad()
def _difference(model: nn.Module, answer: Answer, inputs: Mapping[str, Tensor]) -> float:
    """Largest difference of the logits relative to the largest of them, or to 1, for all samples and for the first alone."""
    worst = 0.0
    for some in (dict(inputs), {name: tensor[:1] for name, tensor in inputs.items()}):
        ours = model(*some.values())
        difference = (answer(some) - ours).abs().max() / ours.abs().max().clamp(min=1)
        worst = max(worst, float(difference)) if torch.isfinite(difference) else float("nan")
    return worst


@torch.no_grad()
def _latency(model: nn.Module, answer: Answer, inputs: Mapping[str, Tensor]) -> list[dict[str, float]]:
    found: list[dict[str, float]] = []
    for count, repeats in REPEATS.items():
        some = {name: _of_length(tensor, count) for name, tensor in inputs.items()}
        calls = {"torch": functools.partial(model, *some.values()), "exported": functools.partial(answer, some)}
        taken = measure(calls, repeats=repeats)
        found.append({"batch": count, **{name: 1000 * t.seconds for name, t in taken.items()}})
    return found


def _of_length(samples: Tensor, count: int) -> Tensor:
    """So many samples, again from the first where there are fewer."""
    return samples[torch.arange(count) % len(samples)]


def _scores(adapted: Adapted, answer: Answer, images: ImageDataset) -> dict[str, dict[str, float]]:
    """Accuracy and balanced accuracy of the adapter and of the exported file on the same images."""
    from gossamer.runs.prepared import Prepared, outputs
    from gossamer.tasks.classifying_images import classify, score
    from gossamer.tasks.recorded import labels_of, preprocessing_of

    classes = labels_of(adapted)
    prepared = Prepared(images.with_classes(classes), preprocessing_of(adapted))
    exported = outputs(lambda **x: answer(x), prepared, device=torch.device("cpu"))
    by = {
        name: score(logits, prepared.labels, classes).headline()
        for name, logits in {"adapter": classify(adapted, prepared), "exported": exported}.items()
    }
    return {kind: {"n": len(prepared), **{name: of[kind] for name, of in by.items()}} for kind in by["exported"]}
