"""What may stand around a model, or be in it already, and would hide from us what is inside: named, with the way out."""

from __future__ import annotations

from torch import nn

from gossamer.errors import UserError

_FIRST = "adapt the model inside ({inside}), and wrap what comes out"
WRAPPERS = {  # package and class -> where the model is, and what to do
    "torch.OptimizedModule": ("_orig_mod", _FIRST + ": torch.compile(gm.adapt(model, ...))"),
    "torch.DataParallel": (
        "module",
        "adapt the model inside ({inside}); it copies its model for every batch, and copies know no adapter: "
        "to train on several devices, start one process each (accelerate launch)",
    ),
    "torch.DistributedDataParallel": ("module", _FIRST),
    "torch.FullyShardedDataParallel": ("module", _FIRST + ", with use_orig_params=True"),
    "torch.FSDPModule": ("", "adapt the model before fully_shard: its weights are in pieces by now"),
    "torch.AveragedModel": ("module", _FIRST + ": AveragedModel(gm.adapt(model, ...))"),
    "torch.ScriptModule": ("", "adapt the model before it is scripted or traced"),
    "peft.PeftModel": (
        "base_model.model",
        "take the plain model out of it (unload(), or merge_and_unload() to keep what it has learnt) and give the configuration "
        "of peft to adapt(): gm.adapt(model, LoraConfig(...))",
    ),
    "peft.BaseTunerLayer": (
        "",
        "peft has put layers into this model, which would be frozen: load it without them (or merge_and_unload()) and give the "
        "configuration of peft to adapt()",
    ),
}


def check_plain(model: nn.Module) -> None:
    """Nothing, where a model and all that is in it can be reached.

    Raises:
        UserError: a wrapper hides something (torch.compile, DataParallel, peft, ...); the message says which, and the way out.
    """
    for path, module in model.named_modules():
        where = f"{path} of this {type(model).__name__}" if path else "this model"
        for kind in type(module).__mro__:
            found = WRAPPERS.get(f"{kind.__module__.partition('.')[0]}.{kind.__name__}")
            if found is not None:
                inside = ".".join(filter(None, ["model", path, found[0]]))
                raise UserError(f"{where} is a {kind.__name__}: {found[1].format(inside=inside)}")
        if getattr(module, "_compiled_call_impl", None) is not None:
            raise UserError(
                f"{where} is compiled in place (compile()), and would run as it was: adapt it first, compile then"
            )
