"""One backbone in memory, many adapters by name, and batches whose rows are for different ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import nn

from gossamer import saving
from gossamer.adapted import Finished, occupant
from gossamer.adapting import Adapted
from gossamer.errors import UnknownName, UserError, WrongKind
from gossamer.mixed import answers
from gossamer.mixed.held import Held
from gossamer.mixed.mixture import Mixture, ordered
from gossamer.mixed.rows import shares_of
from gossamer.mixed.skeleton import on_skeleton, skeleton

Source = Adapted | str | Path


class Group(NamedTuple):
    """Adapters whose rows of a batch share one pass of the backbone.

    Attributes:
        names: of the adapters.
        why: what keeps others out of it; None: nothing, of those that leave depth and length as they are.
    """

    names: tuple[str, ...]
    why: str | None


class Now(NamedTuple):
    """Everything that runs at a time, put in place as one."""

    held: dict[str, Held]
    passes: Sequence[tuple[Group, Mixture | None]]


class Mixed(nn.Module):
    """A frozen backbone with any number of adapters, for inference: each sample of a batch is answered by the adapter it names.

    The backbone runs once for all samples whose adapters change neither its depth nor the length of its sequences in different
    ways; each adapter's parts act on its own rows, and every sample is answered as its adapter alone would answer it. Adapters that
    cannot share a pass run in one of their own (`groups` says which, and why). The weights of the backbone are in memory once.

    Not to be called from two threads at once; adapters may be added and removed by another thread meanwhile.

    Args:
        backbone: a bare model, to which no adapter is attached. It is not changed, and must not be trained or moved from now on.
        adapters: the first ones, by name; see `add`.

    Raises:
        UserError: an adapter is attached to the backbone.
    """

    def __init__(self, backbone: nn.Module, adapters: Mapping[str, Source] = MappingProxyType({})):
        super().__init__()
        if isinstance(backbone, Adapted) or occupant(backbone) is not None:
            raise UserError(
                "an adapter is attached to this backbone: detach() it, make Mixed of the bare model, and add() it then"
            )
        self.backbone = backbone
        self._bare = [skeleton(backbone).eval()]  # in a list, so that it is no child
        self._now = Now({}, ())
        self._active: str | None = None
        self._changing = threading.Lock()
        self.update(adapters)

    # ---- which adapters there are ----

    def add(self, name: str, source: Source) -> None:
        """Takes up an adapter under a name; one that had the name goes. The first one answers where a call names none.

        Args:
            name: any text.
            source: an adapted model whose backbone has the same weights (it stays as it is), or a folder or hub repository that
                `save_pretrained` wrote.

        Raises:
            AdapterError: it does not fit this backbone, or was trained on other weights.
            WrongKind: it is a finished model, whose weights are no more those of the backbone.
        """
        self.update({name: source})

    def update(self, adapters: Mapping[str, Source]) -> None:
        """Takes up several at once, all or none; see `add`."""
        for name in adapters:
            if not isinstance(name, str) or not name:
                raise WrongKind(f"an adapter is called by a text, not by {name!r:.80}")
        taken = {name: self._take(source) for name, source in adapters.items()}
        with self._changing:
            self._update(self._now.held | taken)

    def taken(self, folder: str | Path) -> Adapted:
        """The adapter of a folder as a model of its own over these weights, which can be added, or looked at first.

        Raises:
            AdapterError: as `add`.
        """
        return saving.load(folder, skeleton(self._bare[0]), make=on_skeleton)

    def remove(self, name: str) -> None:
        """Lets an adapter go.

        Raises:
            UnknownName: there is none of that name.
        """
        with self._changing:
            _known(name, self._now.held)
            self._update({other: held for other, held in self._now.held.items() if other != name})

    @property
    def adapters(self) -> dict[str, Adapted]:
        """The adapters by name, each a model of its own over the same weights, for inference: its parts are finished."""
        return {name: held.adapted for name, held in self._now.held.items()}

    def set_adapter(self, name: str) -> None:
        """This one answers from now on where a call names none.

        Raises:
            UnknownName: there is none of that name.
        """
        _known(name, self._now.held)
        self._active = name

    @property
    def active_adapters(self) -> list[str]:
        """The adapter that answers where a call names none; empty while there is none."""
        return [] if self._active is None else [self._active]

    def groups(self) -> list[Group]:
        """Which adapters share a pass. A batch costs one pass of the backbone, over their rows alone, for each group in it."""
        return [group for group, _ in self._now.passes]

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights and stored tensors that are held, what is shared counted once."""
        models = [
            self._bare[0],
            *self.adapters.values(),
            *(m for _, m in self._now.passes if m is not None),
        ]
        tensors = [t for model in models for t in (*model.parameters(), *model.buffers())]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        return sum(storages.values())

    def _take(self, source: Source) -> Held:
        if isinstance(source, Finished) or (isinstance(source, nn.Module) and not isinstance(source, Adapted)):
            raise WrongKind(
                f"a {type(source).__name__} is no adapter: add the adapted model itself, or its folder. (A finished model shares "
                "nothing: its backbone is a copy, into which weights were folded. The adapter's parts are kept in their finished "
                "form here too, such as stored keys and values, and answer as the finished model does.)"
            )
        if not isinstance(source, Adapted | str | Path):
            raise WrongKind(
                f"{source!r:.80} is no adapter: add an adapted model, its folder, or a repository of the hub"
            )
        ground = skeleton(self._bare[0])
        if isinstance(source, Adapted):
            return Held(_copied(source, ground), self._bare[0])
        return Held(saving.load(source, ground, make=on_skeleton), self._bare[0])

    def _update(self, held: dict[str, Held]) -> None:
        """Builds what runs anew, and then puts it in place: a pass that runs meanwhile ends with what it began with."""
        grouped: list[dict[str, Held]] = []
        for name, one in held.items():
            fitting = (g for g in grouped if one.why is None and _fit({**g, name: one}))
            group = next(fitting, None)
            if group is None:
                grouped.append({name: one})
            else:
                group[name] = one
        made = []
        for group in grouped:
            first = next(iter(group.values()))
            mixture = Mixture(skeleton(self._bare[0]), group) if len(group) > 1 else None
            made.append((Group(tuple(group), first.why or first.shaping), mixture))
        self._now = Now(held, made)
        if self._active not in held:
            self._active = next(iter(held), None)

    # ---- running ----

    def forward(
        self,
        *args: Any,
        adapter: str | Sequence[str] | None = None,
        adapter_names: Sequence[str] | None = None,
        **inputs: Any,
    ) -> Any:
        """What each sample's adapter answers for it, in the order of the samples.

        Args:
            args: inputs, as the backbone takes them; tensors have a row for each sample, or one for all.
            adapter: one name for all samples, or one for each. None: the active one.
            adapter_names: the same, as peft calls it.
            inputs: by name, without labels.

        Returns:
            The output of the backbone (of its kind where it is one of transformers'): of its values those that have a row for each
            sample. Where adapters have different numbers of labels, missing logits are -inf.

        Raises:
            UnknownName: there is no such adapter.
            UserError: names and samples differ in number, or labels are given.
        """
        return self._run(_forward, args, inputs, adapter, adapter_names)

    def generate(
        self,
        *args: Any,
        adapter: str | Sequence[str] | None = None,
        adapter_names: Sequence[str] | None = None,
        **inputs: Any,
    ) -> Any:
        """What each sample's adapter writes, as `forward`; texts of groups that end earlier are padded."""
        return self._run(_generate, args, inputs, adapter, adapter_names)

    @torch.no_grad()
    def _run(
        self,
        run: Callable[..., Any],
        args: tuple[Any, ...],
        inputs: dict[str, Any],
        adapter: str | Sequence[str] | None,
        adapter_names: Sequence[str] | None,
    ) -> Any:
        held, passes = self._now
        if inputs.get("labels") is not None:
            raise UserError(
                "a batch for several adapters has no loss: train and evaluate each of them by itself (`adapters`)"
            )
        if adapter is not None and adapter_names is not None:
            raise UserError("adapter= and adapter_names= are two names for the same: give one of them")
        size = answers.samples(args, inputs)
        names = self._named(adapter if adapter_names is None else adapter_names, size, held)
        parts: list[tuple[list[int], Any]] = []
        for group, mixture in passes:
            rows = sorted(
                (i for i, n in enumerate(names) if n in group.names), key=lambda i: group.names.index(names[i])
            )
            if not rows:
                continue
            shares = shares_of([names[i] for i in rows])
            own_args, own_inputs = answers.rows_of(args, rows, size), answers.rows_of(inputs, rows, size)
            if len(shares) == 1 or mixture is None:
                parts.append((rows, run(held[shares[0].name].adapted, None, own_args, own_inputs)))
            else:
                parts.append((rows, run(mixture, shares, own_args, own_inputs)))
        return answers.together(parts, size, self._padding(inputs))

    def _named(self, adapter: str | Sequence[str] | None, size: int, held: Mapping[str, Held]) -> list[str]:
        """The name of each sample's adapter."""
        if adapter is None and self._active is None:
            raise UserError("there is no adapter yet: add(name, adapter or folder) one")
        adapter = (self._active or "") if adapter is None else adapter
        if not isinstance(adapter, Iterable):
            raise WrongKind(f"adapters are named by a text, or by one for each sample; got {adapter!r:.80}")
        names = [adapter] * size if isinstance(adapter, str) else list(adapter)
        if len(names) != size:
            raise UserError(f"{len(names)} names of adapters for {size} samples: give one for all, or one for each")
        for name in names:
            _known(name, held)
        return names

    def _padding(self, inputs: Mapping[str, Any]) -> int | None:
        said = getattr(getattr(self.backbone, "generation_config", None), "pad_token_id", None)
        return inputs.get("pad_token_id", said)

    # ---- being a module ----

    def train(self, mode: bool = True) -> Mixed:
        """Evaluation mode, always: adapters are trained each by itself."""
        return super().train(False)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Mixed:
        raise UserError(
            "adapters share the weights of this backbone where they are: move it before Mixed is made of it"
        )


def _known(name: str, held: Mapping[str, Held]) -> None:
    """UnknownName where there is no adapter of a name."""
    if not isinstance(name, str) or name not in held:
        raise UnknownName(f"no adapter {name!r}: there are {', '.join(held) or 'none'}")


def _fit(group: Mapping[str, Held]) -> bool:
    """Whether adapters can share a pass."""
    return (
        not any(h.why for h in group.values())
        and len({h.shape for h in group.values()}) == 1
        and ordered(group) is not None
    )


def _copied(source: Adapted, ground: nn.Module) -> Adapted:
    """An adapted model once more, on a skeleton; one that stepped aside is attached for as long as that takes."""
    if source.attached:
        return saving.transfer(source, ground, make=on_skeleton)
    other = occupant(source.backbone)
    source.attach()
    try:
        return saving.transfer(source, ground, make=on_skeleton)
    finally:
        source.detach()
        if other is not None:
            other.attach()


def _forward(runner: Any, shares: Any, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> Any:
    return runner(*args, **inputs) if shares is None else runner(shares, args, inputs)


def _generate(runner: Any, shares: Any, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> Any:
    return runner.generate(*args, **inputs) if shares is None else runner.generate(shares, args, inputs)
