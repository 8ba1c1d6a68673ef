"""Damaged and hostile adapter folders: what `gossamer.load` does with them.

    python benchmarks/fuzz_folders.py                     # 10,000 loads; about ten minutes on one core
    python benchmarks/fuzz_folders.py --loads 200 --seed 7

Each load takes one of a few saved adapters and changes it somewhere: values, keys, types, sizes and nesting of
adapter_config.json (bombs and patterns included), header and body of adapter_model.safetensors (digests corrected or not),
bytes of any file. It must end with an adapter or with AdapterError: any other exception, more than 2 seconds of the processor,
500 MB beyond what was there, a backbone that is not bit for bit, setting for setting and module for module what it was, or an
attempt to import a module that is not installed (as one from the working directory is), to run a program, to reach the network
or to write a file is a fault, and ends the benchmark with exit code 1. One row of JSON goes to
benchmarks/results/fuzz_folders.jsonl.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import rows
import torch
import transformers as tf
from peft import IA3Config, LoraConfig

import gossamer as gm
from gossamer import storage

RESULTS = Path(__file__).parent / "results" / "fuzz_folders.jsonl"
SECONDS, MEGABYTES = 2.0, 500
SIZES: dict[str, Any] = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 20}
PICTURES: dict[str, Any] = {"image_size": 16, "patch_size": 4}
BOMB = "(([a-z_0-9.])+)+!"
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 7, 64, 1000, 2_000_000, 2**31 - 1, 2**31, 2**63, -(2**63), 10**18, 10**400, 0.0, -0.5,
    1e-300, 1e300, "", "x", "q", "v", "default", "all-linear", "os", "../x", "/dev/zero", "fusion.q", "\u0000", "a" * 10_000, BOMB,
    ".*", [], {}, [0], [0, 0], [-1], [[]], ["q", "v"], [BOMB], [".*"], {"a": 1}, {BOMB: 3}, {"q": 2**31 - 1}, {"vision": [0]},
    list(range(3000)),
]  # fmt: skip
NAMES = (
    "megatron_config", "megatron_core", "kasa_config", "use_bdlora", "velora_config", "monteclora_config",
    "target_parameters", "layer_replication", "auto_mapping", "runtime_config", "loftq_config", "eva_config",
    "corda_config", "arrow_config", "alora_invocation_tokens", "trainable_token_indices", "layers_pattern",
    "layers_to_transform", "rank_pattern", "alpha_pattern", "exclude_modules", "modules_to_save", "target_modules",
    "init_lora_weights", "use_dora", "bias", "code", "trust_remote_code", "quantization_config", "__class__", "method",
    "blocks", "stack", "prompts", "rank",
)  # fmt: skip
KINDS = (
    "LORA", "ADALORA", "IA3", "LOHA", "LOKR", "OFT", "BOFT", "HRA", "VERA", "XLORA", "SHADOW", "POLY", "CPT", "OSF", "LILY",
    "VBLORA",
)  # fmt: skip


def vit() -> Any:
    """A random ViT with a head."""
    return tf.ViTForImageClassification(tf.ViTConfig(**SIZES, **PICTURES, num_labels=3))


def bare() -> Any:
    """One without a head."""
    return tf.ViTModel(tf.ViTConfig(**SIZES, **PICTURES))


def bert() -> Any:
    """A random BERT with a head."""
    return tf.BertForSequenceClassification(tf.BertConfig(**SIZES, vocab_size=50, num_labels=3))


def vilt() -> Any:
    """A random ViLT with a head."""
    return tf.ViltForQuestionAnswering(tf.ViltConfig(**SIZES, **PICTURES, vocab_size=50, num_labels=3))


def seeing() -> Any:
    """A language model that sees."""
    tower = tf.Dinov2Config(hidden_size=10, num_hidden_layers=3, num_attention_heads=2, mlp_ratio=2, **PICTURES)
    reader = tf.LlamaConfig(**SIZES, vocab_size=50, num_key_value_heads=1, pad_token_id=1)
    return gm.VisionLanguage(tf.Dinov2Model(tower), tf.LlamaForCausalLM(reader))


BASES: dict[str, tuple[Callable[[], Any], list[Any], int | None]] = {
    "vpt": (bare, [gm.VPT(prompts=3)], 3),
    "cvpt+lora": (vit, [gm.CVPT(prompts=3), LoraConfig(r=2)], None),
    "lora": (bert, [LoraConfig(r=2, rank_pattern={"query": 1})], None),
    "ia3": (bert, [IA3Config()], None),
    "das": (vit, [gm.DAS(skip=(0,), rank=4)], None),
    "spt+adapter": (vit, [gm.SPT(prompts=2, deep=False), gm.Adapter(rank=3)], None),
    "apt": (vilt, [gm.APT(prompts=5, rank=2)], None),
    "memvp": (seeing, [gm.MemVP(rank=5, image_tokens=17, extra_slots=3, vision_rank=2)], None),
    "dvp": (seeing, [gm.DVP(block=1, heads=3, rank=2)], None),
}


class Base:
    """A saved adapter and its backbone, with all that a refused load must leave alone."""

    def __init__(self, name: str, home: Path):
        build, methods, labels = BASES[name]
        torch.manual_seed(1)
        self.model = build().eval()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
        adapted = gm.adapt(self.model, methods, num_labels=labels)
        adapted.save_pretrained(home / name)
        adapted.detach()
        self.config = json.loads((home / name / storage.CONFIG).read_text())
        self.tensors = (home / name / storage.TENSORS).read_bytes()
        self.before = self.state()

    def state(self) -> str:
        """A digest of weights, flags, modes, hooks, modules and settings."""
        digest = hashlib.sha256(repr(self.model).encode())
        for name, tensor in sorted(self.model.state_dict(keep_vars=True).items()):
            digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}{tensor.requires_grad}".encode())
            digest.update(tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, module in self.model.named_modules():
            hooks = [len(v) for n, v in sorted(vars(module).items()) if n.endswith(("_hooks", "_hooks_with_kwargs"))]
            digest.update(f"{name}{module.training}{hooks}{sorted(vars(module))}".encode())
        digest.update(json.dumps(self.model.config.to_dict(), sort_keys=True, default=str).encode())
        return digest.hexdigest()


# ---- changes ----


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value in a piece of JSON."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(way for key, item in inside for way in places(item, (*path, key)))]


def change_json(config: dict[str, Any], draw: random.Random) -> None:
    """Changes one value, or adds, removes or renames a field; mostly where methods, head and backbone are described."""
    wanted = draw.choice(["methods", "methods", "methods", "backbone", "head", "stacks", "metadata", ""])
    ways = [way for way in places(config) if way and (not wanted or way[0] == wanted)]
    if not ways:
        return
    *path, last = draw.choice(ways)
    holder: Any = config
    for key in path:
        holder = holder[key]
    what = draw.random()
    if what < 0.55:
        holder[last] = draw.choice(VALUES)
    elif what < 0.65 and isinstance(holder[last], int | float):
        holder[last] = holder[last] * draw.choice([-1, 2, 10, 10**6, 10**9]) + draw.choice([0, 1, -1])
    elif what < 0.75:
        del holder[last]
    elif what < 0.9 and isinstance(holder, dict):
        holder[draw.choice(NAMES)] = draw.choice(VALUES)
    elif what < 0.95 and isinstance(holder, dict) and last == "peft_type":
        holder[last] = draw.choice(KINDS)
    else:
        for _ in range(draw.choice([1, 70, 600])):
            holder[last] = [holder[last]]


def add_setting(config: dict[str, Any], draw: random.Random) -> None:
    """Gives a method a setting that it has or has not."""
    holder = draw.choice(config["methods"]) if isinstance(config.get("methods"), list) and config["methods"] else config
    if isinstance(holder, dict):
        holder[draw.choice([*NAMES, *holder])] = draw.choice(VALUES)


def change_header(data: bytes, draw: random.Random) -> bytes:
    """Changes the header of a safetensors file: a name, a type, a shape, an offset, its length."""
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    name = draw.choice(sorted(set(header) - {"__metadata__"}))
    what = draw.randrange(7)
    if what == 0:
        header[draw.choice(["x", "", "é", name + ".0", "head.weight", "a" * 5000])] = header.pop(name)
    elif what == 1:
        header[name]["dtype"] = draw.choice(["F64", "F16", "BF16", "I8", "BOOL", "F8_E4M3", "X", 3])
    elif what == 2:
        header[name]["shape"] = draw.choice([[], [0], [2**40], [2**40, 0], [-1], [1] * 70, [[1]], "x", None])
    elif what == 3:
        header[name]["shape"] = [draw.choice([1, *header[name]["shape"]]) for _ in range(draw.randrange(4))]
    elif what == 4:
        header[name]["data_offsets"] = [draw.choice([0, 1, 8, len(body), 2**62, -1]) for _ in range(2)]
    elif what == 5:
        header["__metadata__"] = draw.choice([{}, {"format": "pt"}, {"a": 1}, [], {"x": "y" * 10_000}])
    else:
        return struct.pack("<Q", draw.choice([0, 1, length - 1, length + 8, 2**40, 2**63])) + data[8:]
    packed = json.dumps(header).encode()
    packed += b" " * (-len(packed) % 8)
    return struct.pack("<Q", len(packed)) + packed + body


def change_bytes(data: bytes, draw: random.Random) -> bytes:
    """Flips, cuts, repeats or adds bytes."""
    what, at = draw.randrange(5), draw.randrange(len(data))
    if what == 0:
        return data[:at]
    if what == 1:
        return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
    if what == 2:
        return data[:at] + draw.randbytes(draw.choice([1, 8, 300])) + data[at:]
    if what == 3:
        return data[:at] + draw.randbytes(draw.choice([1, 4, 64])) + data[at + 64 :]
    return data[:at] + data[at : at + 200] * draw.choice([2, 50]) + data[at + 200 :]


def damaged(base: Base, folder: Path, draw: random.Random) -> None:
    """Writes a changed copy of an adapter."""
    config, tensors = json.loads(json.dumps(base.config)), base.tensors
    kind = draw.choices(["json", "setting", "header", "body", "text", "several"], [35, 25, 12, 8, 8, 12])[0]
    for _ in range(draw.randint(2, 5) if kind == "several" else 1):
        one = draw.choice(["json", "setting", "header", "body"]) if kind == "several" else kind
        if one == "json":
            with contextlib.suppress(RecursionError):  # nested deep enough
                change_json(config, draw)
        elif one == "setting":
            add_setting(config, draw)
        elif one in ("header", "body"):
            with contextlib.suppress(
                ValueError, LookupError, struct.error
            ):  # what was changed cannot always be changed again
                tensors = (change_header if one == "header" else change_bytes)(tensors, draw)
    if tensors != base.tensors and draw.random() < 0.8:
        sha = hashlib.sha256(tensors).hexdigest()
        config["tensors"] = {"file": storage.TENSORS, "sha256": sha, "bytes": len(tensors)}
    text = json.dumps(config).encode()
    (folder / storage.CONFIG).write_bytes(change_bytes(text, draw) if kind == "text" else text)
    (folder / storage.TENSORS).write_bytes(tensors)


# ---- watching ----


class Watch:
    """What the interpreter reports while it is on: imports of what is not installed, programs, the network, written files."""

    FORBIDDEN = (
        "socket.connect",
        "socket.getaddrinfo",
        "subprocess.Popen",
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.fork",
    )

    def __init__(self, installed: tuple[str, ...]):
        self.on, self.seen, self.installed = False, [], installed
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Notes an event."""
        if not self.on:
            return
        if event == "import" and arguments[1] and not str(arguments[1]).startswith(self.installed):
            self.seen.append(f"import of {arguments[0]} from {arguments[1]}")
        elif event == "import" and str(arguments[0]).partition(".")[0] == "planted":
            self.seen.append(f"import of {arguments[0]}")
        elif event in self.FORBIDDEN:
            self.seen.append(event)
        elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
            self.seen.append(f"{arguments[0]} opened to write")


class TooLong(BaseException):
    """A load takes more than it may."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise TooLong


def peak_megabytes() -> float:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def load(base: Base, folder: Path, watch: Watch) -> tuple[str, list[str], float]:
    """How one load ended ("loaded", "refused" or another exception), its faults, and its seconds."""
    faults, began = [], time.process_time()  # a shared machine stands still now and then
    signal.setitimer(signal.ITIMER_REAL, 10 * SECONDS)
    watch.seen, watch.on = [], True
    try:
        adapted = gm.load(folder, base.model)
        ended = "loaded"
    except gm.AdapterError:
        ended = "refused"
    except TooLong:
        ended = "too long"
        faults.append(f"no end after {10 * SECONDS:.0f} s")
    except Exception as error:
        ended = f"{type(error).__name__}: {error}"[:200]
        faults.append(ended)
    finally:
        watch.on = False
        signal.setitimer(signal.ITIMER_REAL, 0)
    seconds = time.process_time() - began
    if ended == "loaded":
        adapted.detach()
    faults += [f"took {seconds:.1f} s"] if seconds > SECONDS else []
    faults += watch.seen
    if base.state() != base.before:
        faults.append(f"the backbone is another after it was {ended}")
    return ended, faults, seconds


def fuzz(loads: int, seed: int) -> dict[str, Any]:
    """What so many loads came to."""
    draw, ends, faults, slowest = random.Random(seed), Counter(), [], 0.0
    installed = tuple(path for path in sys.path if path and Path(path).is_dir())
    signal.signal(signal.SIGALRM, _stop)
    with tempfile.TemporaryDirectory() as home, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bases = {name: Base(name, Path(home)) for name in BASES}
        folder = Path(home) / "damaged"
        folder.mkdir()
        for name, base in bases.items():  # everything that is imported late is imported now
            assert gm.load(Path(home) / name, base.model).detach() is base.model
            base.before = base.state()
        watch, before = Watch(installed), peak_megabytes()
        for number in range(loads):
            name = draw.choice(list(bases))
            damaged(bases[name], folder, draw)
            memory = peak_megabytes()
            ended, found, seconds = load(bases[name], folder, watch)
            if (grown := peak_megabytes() - memory) > MEGABYTES:
                found.append(f"took {grown:.0f} MB")
            ends[ended if ended in ("loaded", "refused") else "other"] += 1
            slowest = max(slowest, seconds)
            if found:
                faults.append(
                    {
                        "load": number,
                        "base": name,
                        "faults": found,
                        "config": (folder / storage.CONFIG).read_text()[-3000:],
                    }
                )
                print(f"load {number} of {name}: {'; '.join(found)}", flush=True)
                bases[name] = Base(name, Path(home) / f"again-{number}")
            if (number + 1) % 1000 == 0:
                print(f"{number + 1} loads: {dict(ends)}, {len(faults)} faults", flush=True)
        grown = peak_megabytes() - before
    return {
        "loads": loads, "loaded": ends["loaded"], "refused": ends["refused"], "other": ends["other"], "faults": len(faults),
        "found": faults[:20], "slowest_seconds": round(slowest, 2), "grown_megabytes": round(grown),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tf.logging.set_verbosity_error()
    found = {**fuzz(options.loads, options.seed), **rows.describe(options.seed)}
    rows.append(options.out, [found])
    columns = ("loads", "loaded", "refused", "other", "faults", "slowest_seconds", "grown_megabytes")
    print(rows.table([found], {name.replace("_", " "): f"{{{name}}}" for name in columns}))
    if found["faults"]:
        raise SystemExit(f"{found['faults']} loads did what no load may")


if __name__ == "__main__":
    main()
