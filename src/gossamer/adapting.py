"""Adapting a model, and loading one that was adapted: the class that users hold, which joins module, cost sheet and saving."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from gossamer import finished as finished_folder
from gossamer import hosts, methods, peft_folder, saving, state, tested_versions
from gossamer.adapted import AdaptedModule, finish, occupant
from gossamer.adapted.rebuilding import Keeping, KeepingPlain
from gossamer.cost import CostSheet, cost
from gossamer.errors import AdapterError, UserError


class Adapted(AdaptedModule):
    """A frozen backbone with methods and a head, as one module.

    Called like the backbone. Its state dict holds only what adapting adds or trains, under names of our own, so checkpoints are
    small. What the backbone offers besides (`config`, `generate`, `device`, ...) is found here too.

    Args:
        backbone: a model of transformers or timm, or a module around one.
        applied: the methods, in the order in which they are placed (peft's first, since they wrap modules).
        num_labels: outputs of the head; None keeps the head that was found.
        train_head: whether the head is trained. It is saved either way.
        head: the modules of the backbone that are its head; None: those that it declares.
        family: of blocks that no family describes; see `adapt`.
    """

    def finalize(self, save: str | Path | None = None) -> nn.Module:
        """A plain module, equal to this one in evaluation, without anything that only training needs.

        Prompt keys and values are stored, projections folded, peft's layers merged. A copy: this adapter stays as it is.

        Args:
            save: a folder that the module is written to, backbone included; `gossamer.load_finished` reads it.

        Raises:
            ValueError: with `save`, where the module cannot be made again from its description; the message says why.
        """
        self._must_be_attached()
        finished: Any = finish(self)
        if isinstance(finished, PreTrainedModel):
            finished.save_pretrained = Keeping(finished, [methods.to_dict(m) for m in self.applied])
        elif isinstance(self.host, hosts.Diffusers):
            finished.save_pretrained = KeepingPlain(finished)
        if save is not None:
            finished_folder.save(self, finished, save)
        return finished

    def cost(self, **sizes: Any) -> CostSheet:
        """Parameters and multiply-adds against the bare backbone; see `gossamer.cost.cost`."""
        self._must_be_attached()
        return cost(self, **sizes)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes adapter_config.json, adapter_model.safetensors and README.md, atomically; see docs/saving.md."""
        saving.save(self, folder)

    def to_peft(self, folder: str | Path) -> None:
        """Writes the folder that peft would: `peft.PeftModel.from_pretrained(backbone, folder)` gives the same outputs.

        Raises:
            ValueError: peft cannot hold this adapter: a method of ours, several configurations, a head that was built here.
        """
        self._must_be_attached()
        peft_folder.write(self, folder)

    def get_extra_state(self) -> Tensor:
        """What this adapter is, as bytes of JSON [n] in its state dict; so `load` reads what transformers' own Trainer saved."""
        return state.packed(saving.describe(self))

    def set_extra_state(self, said: Tensor) -> None:
        """Takes from those bytes which pre-trained weights the tensors beside them were trained on; the rest stays as it is here.

        Warns where this backbone has others, and where those are no bytes of ours: then it stays as it is.
        """
        try:
            saving.adopt(self, state.unpacked(said, "state dict"))
        except AdapterError as error:
            warnings.warn(f"{error}; so nothing says what these tensors were trained on", stacklevel=4)

    def push_to_hub(self, repository: str, **options: Any) -> str:
        """Uploads what `save_pretrained` writes to "user/name" of the Hugging Face hub; returns the address."""
        return saving.push_to_hub(self, repository, **options)


def adapt(
    model: nn.Module,
    applied: Any,
    *,
    num_labels: int | None = None,
    train_head: bool = True,
    head: str | nn.Module | Sequence[str | nn.Module] | None = None,
    family: str | None = None,
) -> Adapted:
    """A model adapted by one method or a list of them: backbone frozen, methods and head trainable.

    Args:
        model: of transformers or timm, with or without a task head, or a module of your own around one. It is changed in place;
            `detach()` restores it.
        applied: a method (VPT, Adapter, LinearProbe, ...), a configuration of peft, or a list of both.
        num_labels: outputs of the head. A head of another size is replaced; where there is none, one is built on what the family
            reads out (for ViT the class token after the last norm). None: keep the model's head as it is.
        train_head: whether the head is trained.
        head: the modules of the model that are its head, which is trained and saved: names, or the modules themselves; () is none.
            None: those that the model declares; see docs/heads.md.
        family: what blocks that no family describes are read as, "llama" for instance; a trial must show the same structure. What
            `gossamer inspect` says of such a model names it; see docs/anatomy.md.

    Raises:
        TypeError: a method needs the model's blocks and no family knows them, they are not as those of the family that was named,
            or something in the list is no method.
        ValueError: the model is adapted already, or wrapped (torch.compile, DataParallel, peft); a part of it may be a head, and
            nothing says so; or nothing would be trained.
    """
    tested_versions.warn_outside()
    if isinstance(model, Adapted):
        raise UserError("this model is adapted already: list all methods in one adapt(), or detach() first")
    if occupant(model) is not None:
        raise UserError(f"this {type(model).__name__} is adapted already; detach() that adapter first")
    applied = list(applied) if isinstance(applied, list | tuple) else [applied]
    if not applied:
        raise UserError("no method given; LinearProbe() trains the head alone")
    return Adapted(
        model,
        [methods.as_method(m) for m in applied],
        num_labels=num_labels,
        train_head=train_head,
        head=head,
        family=family,
    )


def load(folder: str | Path, backbone: nn.Module | None = None) -> Adapted:
    """The adapter that `save_pretrained` wrote, on its backbone, in evaluation mode.

    Args:
        folder: a local folder, or a repository of the Hugging Face hub ("user/name"); also one that peft wrote.
        backbone: the pre-trained model to put it on. None: the one named in the folder is loaded. Another adapter that sits on
            it steps aside and comes back with its `attach()`, or at once where this fails.

    Raises:
        AdapterError: anything is not as it was saved: unknown or missing fields, tensors missing, left over, of another shape or
            not finite, another backbone, deeper or shallower. The message says what was asked, what was found, what to do.
    """
    tested_versions.warn_outside()
    return saving.load(folder, backbone, make=Adapted)


def load_finished(folder: str | Path) -> nn.Module:
    """The finished model that `finalize(save=folder)` wrote, backbone included: a plain module in evaluation mode, on the CPU.

    A repository of the hub ("user/name") that holds such a folder is fetched. The model is called as the adapted one was. What was
    recorded of its training (labels, preprocessing, task) is its `metadata`.

    Raises:
        AdapterError: the folder holds something else, or not all of it.
    """
    return finished_folder.load(folder)
