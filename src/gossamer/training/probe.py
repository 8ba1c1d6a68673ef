"""The linear probe, solved exactly: multinomial logistic regression on fixed features.

On features standardised to mean 0 and variance 1, minimise  mean cross-entropy + l2 / 2 |W|^2  over W [C, d] and b [C] (b free).
The problem is convex, so the solution depends on nothing but features and l2; l2 is chosen on held-out parts of the same features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.errors import UserError

STRENGTHS = tuple(10 ** (exponent / 2) for exponent in range(2, -9, -1))  # of l2, strongest first: 10 to 1e-4
CHOOSING, SOLVING = 1e-5, 1e-7  # largest gradient left; the objective is of the order of 1
FOLDS = 5
LARGE = 20_000  # from this many samples on, one fold is held out instead of each in turn


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A solved linear probe, for features as they are: logits = features weight^T + bias.

    `weight` [C, d] and `bias` [C] are float32; `l2` is the strength that was used, `held_out_accuracy` and `held_out_loss` what
    was seen of it on features that were held out while l2 was chosen (None where it was given, or every class has one sample).
    """

    weight: Tensor
    bias: Tensor
    l2: float
    held_out_accuracy: float | None = None
    held_out_loss: float | None = None

    def put_into(self, linear: nn.Linear) -> None:
        """Copies weight and bias into a Linear.

        Raises:
            ValueError: the Linear has another shape or no bias.
        """
        if linear.bias is None or linear.weight.shape != self.weight.shape:
            found = f"{tuple(linear.weight.shape)}{'' if linear.bias is not None else ' without bias'}"
            raise UserError(
                f"the probe is a Linear of {tuple(self.weight.shape)} with bias; the head's last one is {found}"
            )
        with torch.no_grad():
            linear.weight.copy_(self.weight)
            linear.bias.copy_(self.bias)


def fit(
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    l2: float | None = None,
    seed: int = 0,
    subjects: Tensor | None = None,
) -> Probe:
    """The linear probe of features [n, d] and labels [n].

    Args:
        features: what the head would read.
        labels: class of each sample, 0 to classes - 1.
        classes: C.
        l2: strength of the penalty. None: the one of `STRENGTHS` that `chosen` takes by held-out fifths of the samples, then
            solved again on all of them.
        seed: of the fifths.
        subjects: [n], equal for samples of the same thing, such as questions about one image: they are held out together.

    Raises:
        ValueError: a feature is not finite, or a label is outside the classes.
    """
    if not torch.isfinite(features).all():
        raise UserError(
            f"{int((~torch.isfinite(features)).any(1).sum())} of {len(features)} feature vectors are not finite"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise UserError(f"labels reach from {int(labels.min())} to {int(labels.max())}; there are {classes} classes")
    features = features.detach().double()
    accuracy = loss = None
    if l2 is None:
        place, found = len(STRENGTHS) // 2, _held_out(features, labels, classes, folds(labels, seed, subjects))
        if found is not None:
            right, losses = found
            place = chosen(right, losses)
            accuracy, loss = float(right[place].mean()), float(losses[place].mean())
        l2 = STRENGTHS[place]
    weight, bias = next(_solved(features, labels, (l2,), classes, SOLVING))
    return Probe(weight=weight.float(), bias=bias.float(), l2=l2, held_out_accuracy=accuracy, held_out_loss=loss)


def eased(features: Tensor, labels: Tensor, best: Probe) -> Probe:
    """The probe from which to tune: no surer of its own samples than `best`, that of the same ones, is of held-out ones.

    Where features are many and samples few, the best probe knows its own samples by heart, and a loss that is nothing teaches
    nothing. Of the strengths from the strongest to the best one's it is the weakest whose loss on the samples is at least the best
    one's held-out loss; where none is, the strongest. `best` itself where nothing was held out.
    """
    if best.held_out_loss is None:
        return best
    features = features.detach().double()
    tried = tuple(strength for strength in STRENGTHS if strength >= best.l2)
    solved = _solved(features, labels, tried, len(best.bias), CHOOSING)
    own = [float(F.cross_entropy(features @ weight.T + bias, labels.to(features.device))) for weight, bias in solved]
    place = max((i for i, value in enumerate(own) if value >= best.held_out_loss), default=0)
    return best if tried[place] == best.l2 else fit(features, labels, len(best.bias), l2=tried[place])


def folds(labels: Tensor, seed: int, subjects: Tensor | None = None) -> list[Tensor]:
    """At most five disjoint sets of places. Without subjects every class is dealt out evenly, and one with a single sample is
    never held out; subjects are dealt out whole."""
    generator = torch.Generator().manual_seed(seed)
    if subjects is not None and len(numbers := subjects.unique()) < len(labels):
        order = numbers[torch.randperm(len(numbers), generator=generator)]
        parts = [torch.isin(subjects, order[i::FOLDS]).nonzero().flatten() for i in range(FOLDS)]
        return [part for part in parts if 0 < len(part) < len(labels)]
    dealt: list[list[Tensor]] = [[] for _ in range(FOLDS)]
    start = 0
    for label in labels.unique():
        places = (labels == label).nonzero().flatten()
        if len(places) < 2:
            continue
        places = places[torch.randperm(len(places), generator=generator)]
        for i in range(FOLDS):
            dealt[(start + i) % FOLDS].append(places[i::FOLDS])
        start += len(places)
    return [torch.cat(parts) for parts in dealt if sum(map(len, parts))]


def _held_out(features: Tensor, labels: Tensor, classes: int, parts: list[Tensor]) -> tuple[Tensor, Tensor] | None:
    """Of strengths, strongest first, 1.0 where a probe is right about a held-out sample, and its cross-entropy there [S, n].

    Losses along a path fall and then rise: from where their mean is more than one standard error above the least, weaker ones
    could not be `chosen`, and are not solved. None where nothing can be held out.
    """
    parts = parts[: 1 if len(labels) >= LARGE else FOLDS]
    if not parts:
        return None
    places = torch.arange(len(labels))
    kept = [places[~torch.isin(places, part)] for part in parts]
    paths = [_solved(features[k], labels[k], STRENGTHS, classes, CHOOSING) for k in kept]
    right: list[Tensor] = []
    losses: list[Tensor] = []
    for probes in zip(*paths, strict=True):
        logits = torch.cat([features[part] @ w.T + b for part, (w, b) in zip(parts, probes, strict=True)])
        true = labels[torch.cat(parts)]
        right.append((logits.argmax(1) == true).double())
        losses.append(F.cross_entropy(logits, true, reduction="none"))
        if losses[-1].mean() > _highest(torch.stack(losses)):
            break
    return torch.stack(right), torch.stack(losses)


def chosen(right: Tensor, losses: Tensor) -> int:
    """Which of several probes, strongest penalty first: the most accurate one that is not surer of itself than it may be.

    Accuracy alone takes penalties far too weak where samples are few: its differences are those of a few samples, and a probe that
    knows its own samples by heart leaves nothing to tune. So a probe may only win if its loss is within one standard error of the
    least. Of equal ones the stronger penalty wins.

    Args:
        right: 1.0 where a probe is right about a held-out sample [probes, n].
        losses: its cross-entropy there [probes, n].
    """
    mean = losses.mean(1)
    return int(torch.where(mean <= _highest(losses), right.mean(1), -1.0).argmax())


def _highest(losses: Tensor) -> Tensor:
    """The least mean of losses [probes, n], and one standard error."""
    least = losses[losses.mean(1).argmin()]
    return least.mean() + least.std(correction=0) / len(least) ** 0.5


def _solved(
    features: Tensor, labels: Tensor, strengths: tuple[float, ...], classes: int, tolerance: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """Weight [C, d] and bias [C] for one strength after the other, in float64, each started from the one before.

    Along the singular directions of the features, each in units of its own curvature, the objective is round, and L-BFGS needs few
    steps: the curvature of a mean cross-entropy is at most half of the features' variance (D. Böhning: Multinomial logistic
    regression algorithm, 1992). Directions that no sample has are left out: weights there are zero at the minimum.
    """
    mean, std = features.mean(0), features.std(0, correction=0)
    std = torch.where(std > 1e-9 * (1 + mean.abs()), std, torch.ones_like(std))  # a constant feature says nothing
    features, sizes, directions = torch.linalg.svd((features - mean) / std, full_matrices=False)
    features = features * sizes
    weight, bias = features.new_zeros(classes, len(sizes)), features.new_zeros(classes)
    labels = labels.to(features.device)
    for l2 in strengths:
        unit = (sizes.square() / (2 * len(features)) + l2).rsqrt()
        unit = unit / unit.max()  # no gradient is then larger than that of the weights themselves
        scaled, bias = _minimised(weight / unit, bias, features * unit, labels, l2 * unit.square(), tolerance)
        weight = scaled * unit
        w = weight @ directions / std
        yield w, bias - w @ mean


def _minimised(
    weight: Tensor, bias: Tensor, x: Tensor, labels: Tensor, penalty: Tensor, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Weight and bias at the minimum of  mean cross-entropy + 1/2 sum_cd penalty_d W_cd^2,  from those given."""
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=1000,
        history_size=100,
        tolerance_grad=tolerance,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight.T + bias, labels) + (penalty / 2 * weight.square()).sum()
        loss.backward()
        return loss

    optimizer.step(objective)  # type: ignore[arg-type]
    return weight.detach(), bias.detach()
