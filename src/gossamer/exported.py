"""An exported file, which says by itself what it is: read, asked, and its images prepared as they were in training.

Without Gossamer the same is done in twenty lines; see docs/export.md.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gossamer.data import Preprocessing
from gossamer.errors import MissingPackage, UserError

if TYPE_CHECKING:
    from gossamer.tasks import ClassifyingImages

SUFFIX = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
WEIGHTS = ".bin"  # what OpenVINO calls the file beside its .xml
NOTE = "gossamer"  # ONNX: key of the metadata; OpenVINO: of rt_info; torch.export: name of the file inside, with .json
Answer = Callable[[Mapping[str, Tensor]], Tensor]


def answers(file: str | os.PathLike[str]) -> Answer:
    """A function that gives an exported file's logits [B, C] for named inputs, in the file's own runtime."""
    if Path(file).suffix == SUFFIX["torch"]:
        program = torch.export.load(file).module()
        return lambda inputs: program(*inputs.values())
    if Path(file).suffix == SUFFIX["openvino"]:
        # Some processors would compute in bfloat16 unless they are told.
        compiled = openvino().Core().compile_model(_graph(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return lambda inputs: torch.from_numpy(compiled({name: t.numpy() for name, t in inputs.items()})[0])
    session = _session(file)
    return lambda inputs: torch.from_numpy(session.run(None, {name: t.numpy() for name, t in inputs.items()})[0])


def note(file: str | os.PathLike[str]) -> dict[str, Any]:
    """What an exported file says of itself: labels, preprocessing, task, methods, backbone, cost; see docs/export.md.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it says nothing, so it was not written by `export`, or is no file of the kind that its name says.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no file {file}")
    if Path(file).suffix == SUFFIX["torch"]:
        inside = {f"{NOTE}.json": ""}
        try:
            torch.export.load(file, extra_files=inside)
        except Exception as error:  # of a zip file, or of what is in it
            raise UserError(f"{file} is not a program of torch.export: {error}") from error
        found = inside[f"{NOTE}.json"]
    elif Path(file).suffix == SUFFIX["openvino"]:
        graph = _graph(file)
        found = graph.get_rt_info([NOTE]).value if graph.has_rt_info([NOTE]) else ""
    else:
        found = _session(file).get_modelmeta().custom_metadata_map.get(NOTE, "")
    if not found:
        raise UserError(
            f"{file} does not say what its outputs mean, so it was not written by gossamer export of this version: export it again"
        )
    return json.loads(found)


def names(given: str | os.PathLike[str]) -> bool:
    """Whether a name is that of an exported file, by its ending."""
    return Path(given).suffix in SUFFIX.values()


def classifier(file: str | os.PathLike[str]) -> tuple[ClassifyingImages, Callable[[Tensor], Tensor]]:
    """The task of an exported classifier, and its function from prepared images [B, 3, S, S] to logits [B, C].

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is not one, or is of another task.
    """
    from gossamer.tasks import ClassifyingImages

    told = note(file)
    if told.get("task", ClassifyingImages.name) != ClassifyingImages.name or "labels" not in told:
        raise UserError(f"{file} is of the task {told.get('task')!r}: only exported image classifiers are asked so far")
    (name,), answer = told["inputs"], answers(file)
    preprocessing = Preprocessing.from_dict(told["preprocessing"])
    return ClassifyingImages(tuple(told["labels"]), preprocessing), lambda pixels: answer({name: pixels})


def openvino() -> Any:
    """The package, without what it reports to its makers whenever it is imported: it does without where that is not found.

    Raises:
        MissingPackage: it is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise MissingPackage("an OpenVINO file needs openvino: pip install 'gossamer[export,openvino]'") from error


def _graph(file: str | os.PathLike[str]) -> Any:
    core = openvino().Core()
    try:
        return core.read_model(os.fspath(file))
    except Exception as error:  # its own kinds, by what is wrong with the file
        raise UserError(f"OpenVINO cannot read {file}: {error}") from error


def _session(file: str | os.PathLike[str]) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackage("an ONNX file needs onnxruntime: pip install 'gossamer[export]'") from error
    try:
        return onnxruntime.InferenceSession(os.fspath(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # its own kinds, by what is wrong with the file
        raise UserError(f"onnxruntime cannot read {file}: {error}") from error
