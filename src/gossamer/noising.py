"""Noise-prediction training in formulas: what is noised, what is predicted, how a loss weighs timesteps and halves of a batch.

ab_t = prod_{u <= t} (1 - beta_u) is what a schedule leaves of an image at step t; images x_0 and noise have one shape [B, C, h, w].

J. Ho, A. Jain, P. Abbeel: Denoising Diffusion Probabilistic Models, arXiv 2006.11239. T. Salimans, J. Ho: Progressive Distillation
for Fast Sampling of Diffusion Models, arXiv 2202.00512 (velocity). T. Hang et al.: Efficient Diffusion Training via Min-SNR
Weighting Strategy, arXiv 2303.09556. N. Ruiz et al.: DreamBooth, arXiv 2208.12242 (prior preservation).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Predicts = Literal["epsilon", "v_prediction"]


def noised(x0: Tensor, noise: Tensor, ab: Tensor) -> Tensor:
    """x_t = sqrt(ab) x_0 + sqrt(1 - ab) noise; ab [B]."""
    ab = _for_each(ab, x0)
    return ab.sqrt() * x0 + (1 - ab).sqrt() * noise


def velocity(x0: Tensor, noise: Tensor, ab: Tensor) -> Tensor:
    """v = sqrt(ab) noise - sqrt(1 - ab) x_0; ab [B]."""
    ab = _for_each(ab, x0)
    return ab.sqrt() * noise - (1 - ab).sqrt() * x0


def target(predicts: Predicts, x0: Tensor, noise: Tensor, ab: Tensor) -> Tensor:
    """What a denoiser is to predict: the noise, or the velocity."""
    return noise if predicts == "epsilon" else velocity(x0, noise, ab)


def snr(ab: Tensor) -> Tensor:
    """Signal to noise, ab / (1 - ab)."""
    return ab / (1 - ab)


def min_snr(ab: Tensor, gamma: float, predicts: Predicts = "epsilon") -> Tensor:
    """Weights [B] of samples: min(snr, gamma) / snr for the noise, / (snr + 1) for the velocity.

    Of a schedule whose last step leaves nothing of the image snr is 0 there: 1 for the noise, the limit.
    """
    ratio = snr(ab)
    if predicts == "v_prediction":
        return ratio.clamp(max=gamma) / (ratio + 1)
    return (gamma / ratio).clamp(max=1)


def loss(prediction: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over samples of weight times mean squared distance, in float32 at least; weights [B], None: 1."""
    apart = (prediction.float() if prediction.dtype.itemsize < 4 else prediction) - target
    each = apart.square().flatten(1).mean(dim=1)
    return (each if weights is None else weights * each).mean()


def with_prior(prediction: Tensor, target: Tensor, weights: Tensor | None = None, prior: float = 1.0) -> Tensor:
    """L_instance + prior L_class of a batch whose first half are instances and whose second half is what must not be forgotten.

    `weights` [B] are those of all samples; the first half's own weigh the instances, and the second half goes unweighted.
    """
    (ours, theirs), (wanted, kept) = prediction.chunk(2), target.chunk(2)
    own = None if weights is None else weights.chunk(2)[0]
    return loss(ours, wanted, own) + prior * loss(theirs, kept)


def _for_each(ab: Tensor, like: Tensor) -> Tensor:
    return ab.to(like).view(-1, *[1] * (like.dim() - 1))
