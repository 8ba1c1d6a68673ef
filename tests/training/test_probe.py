from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from gossamer.training import probe


def sample(n: int = 90, d: int = 7, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(n) % classes
    centres = torch.randn(classes, d, generator=generator)
    features = centres[labels] + torch.randn(n, d, generator=generator)
    return features * torch.linspace(0.1, 30, d) + 5, labels


@pytest.mark.parametrize("l2", [1e-3, 1e-1, 3.0])
def test_the_solution_is_that_of_scikit_learn_on_standardised_features(l2: float) -> None:
    features, labels = sample()
    mean, std = features.mean(0), features.std(0, correction=0)
    standard = ((features - mean) / std).double().numpy()
    known = LogisticRegression(C=1 / (len(labels) * l2), tol=1e-10, max_iter=10_000).fit(standard, labels.numpy())
    expected = torch.from_numpy(known.decision_function(standard))
    found = probe.fit(features, labels, 4, l2=l2)
    logits = features.double() @ found.weight.double().T + found.bias.double()
    torch.testing.assert_close(logits.log_softmax(1), expected.log_softmax(1), atol=1e-4, rtol=1e-4)


def test_the_strength_is_chosen_on_held_out_samples() -> None:
    features, labels = sample()
    found = probe.fit(features, labels, 4)
    assert found.l2 in probe.STRENGTHS
    right = 0
    for held in probe.folds(labels, 0):
        kept = torch.ones(len(labels), dtype=torch.bool)
        kept[held] = False
        part = probe.fit(features[kept], labels[kept], 4, l2=found.l2)
        right += int(((features[held] @ part.weight.T + part.bias).argmax(1) == labels[held]).sum())
    assert found.held_out_accuracy == pytest.approx(right / len(labels))


def test_accuracy_decides_only_among_probes_whose_loss_is_near_the_least() -> None:
    right = torch.tensor([[1.0, 0, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    losses = torch.tensor([[0.5, 0.9, 0.5, 0.9], [0.5, 0.6, 0.7, 0.8], [0.4, 0.6, 0.7, 0.8], [0.1, 0.1, 0.1, 9.0]])
    assert probe.chosen(right, losses) == 1  # the last is right most often and sure of what it gets wrong
    assert probe.chosen(right, losses[:, :1].expand(-1, 4)) == 3  # no error: the least loss alone


def test_the_probe_of_few_samples_does_not_know_them_by_heart() -> None:
    """Three samples of each of 16 classes, hardly told apart: by accuracy alone l2 was 0.0001 and the training loss 0.0003."""
    generator = torch.Generator().manual_seed(6)
    labels = torch.arange(48) % 16
    features = torch.randn(48, 200, generator=generator) + torch.randn(16, 200, generator=generator)[labels] / 5
    found = probe.fit(features, labels, 16)
    assert found.l2 >= 0.1
    assert nn.functional.cross_entropy(features @ found.weight.T + found.bias, labels) > 0.3


def test_the_same_features_give_the_same_probe() -> None:
    features, labels = sample()
    one, two = (probe.fit(features, labels, 4, seed=3) for _ in range(2))
    assert torch.equal(one.weight, two.weight)
    assert torch.equal(one.bias, two.bias)


def test_folds_share_out_every_class_and_never_hold_out_a_lone_sample() -> None:
    labels = torch.tensor([0] * 13 + [1] * 8 + [2])
    held = probe.folds(labels, 0)
    assert sorted(torch.cat(held).tolist()) == list(range(21))
    assert all(2 <= int((labels[part] == 0).sum()) <= 3 for part in held)


def test_samples_of_one_subject_are_held_out_together() -> None:
    subjects = torch.arange(40) // 3
    held = probe.folds(torch.arange(40) % 4, 0, subjects)
    assert sorted(torch.cat(held).tolist()) == list(range(40))
    owners = [set(subjects[part].tolist()) for part in held]
    assert sum(map(len, owners)) == 14


def test_a_feature_that_only_names_its_subject_is_worth_nothing() -> None:
    """Three samples of each of 30 subjects with one label: told apart from each other they are recognised, kept together not."""
    subjects = torch.arange(90) // 3
    labels = torch.randint(0, 2, (30,), generator=torch.Generator().manual_seed(0))[subjects]
    features = torch.eye(30)[subjects]
    assert (probe.fit(features, labels, 2).held_out_accuracy or 0) > 0.95
    assert (probe.fit(features, labels, 2, subjects=subjects).held_out_accuracy or 0) < 0.75


def test_a_constant_feature_and_a_lone_class_do_no_harm() -> None:
    features, labels = sample()
    features[:, 2] = 4.0
    labels[labels == 3] = 0
    labels[0] = 3
    found = probe.fit(features, labels, 4)
    assert torch.isfinite(found.weight).all()


def test_with_one_sample_a_class_nothing_can_be_held_out() -> None:
    found = probe.fit(torch.eye(3), torch.arange(3), 3)
    assert found.held_out_accuracy is None
    assert (torch.eye(3) @ found.weight.T + found.bias).argmax(1).tolist() == [0, 1, 2]


def test_it_goes_into_a_linear_of_its_shape_only() -> None:
    features, labels = sample()
    found, head = probe.fit(features, labels, 4, l2=0.1), nn.Linear(7, 4)
    found.put_into(head)
    assert torch.equal(head.weight, found.weight)
    with pytest.raises(
        ValueError, match=r"a Linear of \(4, 7\) with bias; the head's last one is \(4, 7\) without bias"
    ):
        found.put_into(nn.Linear(7, 4, bias=False))
    with pytest.raises(ValueError, match=r"last one is \(3, 7\)"):
        found.put_into(nn.Linear(7, 3))


def test_bad_samples_are_refused() -> None:
    features, labels = sample()
    with pytest.raises(ValueError, match="labels reach from 0 to 3; there are 3 classes"):
        probe.fit(features, labels, 3)
    features[5, 1] = torch.nan
    with pytest.raises(ValueError, match="1 of 90 feature vectors are not finite"):
        probe.fit(features, labels, 4)


def test_an_eased_probe_is_no_surer_of_its_own_samples_than_the_best_one_is_of_others() -> None:
    """More features than samples: the chosen one knows its own by heart."""
    generator = torch.Generator().manual_seed(6)
    labels = torch.arange(60) % 4
    features = torch.randn(60, 90, generator=generator) + torch.randn(4, 90, generator=generator)[labels] / 2
    best = probe.fit(features, labels, 4)
    eased = probe.eased(features, labels, best)
    losses = []
    for held in probe.folds(labels, 0):
        kept = torch.ones(len(labels), dtype=torch.bool)
        kept[held] = False
        part = probe.fit(features[kept], labels[kept], 4, l2=best.l2)
        losses.append(nn.functional.cross_entropy(features[held] @ part.weight.T + part.bias, labels[held]))
    held_out = float(torch.stack(losses).mean())
    assert best.held_out_loss == pytest.approx(held_out, abs=1e-3)
    own = [float(nn.functional.cross_entropy(features @ p.weight.T + p.bias, labels)) for p in (best, eased)]
    assert eased.l2 > best.l2
    assert own[0] < held_out - 0.01 < own[1]
    weaker = probe.STRENGTHS[probe.STRENGTHS.index(eased.l2) + 1]
    next_one = probe.fit(features, labels, 4, l2=weaker)
    assert float(nn.functional.cross_entropy(features @ next_one.weight.T + next_one.bias, labels)) < held_out + 0.01


def test_a_probe_that_knows_no_more_of_its_own_samples_is_eased_into_itself() -> None:
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(400) % 2
    features = torch.randn(400, 2, generator=generator) + labels[:, None] / 2
    strongest = probe.Probe(**{**vars(probe.fit(features, labels, 2, l2=10.0)), "held_out_loss": 0.1})
    assert probe.eased(features, labels, strongest) is strongest
    given = probe.fit(features, labels, 2, l2=1e-3)
    assert probe.eased(features, labels, given) is given, "nothing was held out"
