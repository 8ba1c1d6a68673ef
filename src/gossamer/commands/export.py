"""`gossamer export`: a trained classifier as one file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path


def command(arguments: Sequence[str]) -> None:
    """`gossamer export`: writes the classifier of a run as one file and says what it measured."""
    parser = argparse.ArgumentParser(
        prog="gossamer export", description="Write a trained classifier as one file for another runtime."
    )
    parser.add_argument("run", help="folder of a run")
    parser.add_argument("--format", default="onnx", help="onnx, openvino or torch (default: %(default)s)")
    parser.add_argument("--int8", action="store_true", help="8-bit weights (onnx only), with their accuracy beside it")
    parser.add_argument(
        "--any-size", action="store_true", help="take images of any size (onnx, openvino), where the model can"
    )
    parser.add_argument("--output", help="file (default: model.onnx, model.xml or model.pt2 in the folder of the run)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args(arguments)

    from gossamer.export import export_run, file_of

    file = Path(asked.output or file_of(asked.run, asked.format, int8=asked.int8))
    found = export_run(asked.run, file, format=asked.format, int8=asked.int8, any_size=asked.any_size)
    if asked.json:
        print(json.dumps({"file": str(file), **found}, indent=2))
        return
    print(f"{file}: {found['mib']:.1f} MiB; logits differ from the adapter's by at most {found['difference']:.1g}")
    for t in found["latency"]:
        print(f"a batch of {t['batch']}: {t['torch']:.1f} ms in torch, {t['exported']:.1f} ms in the file's runtime")
    for name in ("accuracy", "balanced_accuracy"):
        if (of := found.get(name)) is not None:
            said = f"{of['adapter']:.2%} as trained, {of['exported']:.2%} in 8 bits ({of['n']:,} images)"
            print(f"{name.replace('_', ' ')} on {of['split']}: {said}")
