r"""The equations of Early-Learning Regularization as pure functions of tensors.

Liu et al., "Early-Learning Regularization Prevents Memorization of Noisy Labels", NeurIPS 2020
(https://arxiv.org/abs/2007.00151), called "the paper" here. The symbols are the paper's: for sample i, ``logits`` are
the network's outputs, p = softmax(logits) its probabilities, y its (possibly wrong) label, t its target, a running
average of its p over the epochs; beta is the momentum of that average and lam the strength of the regulariser.

Where the paper and its authors' published code differ, the code is followed, because the published results come
from it: probabilities are clamped to [1e-4, 1 - 1e-4] (:data:`EPS`), and the ones that enter t are then rescaled to
sum to one. ``eps=0`` gives the paper to the letter.

Everything is computed in float32, or float64 when the input is float64; inside ``torch.autocast`` too.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    'EPS', 'cross_entropy', 'elr_gradient', 'elr_loss', 'elr_regularizer', 'log_probabilities', 'probabilities',
    'regularizer_gradient', 'sigmoid_ramp_up', 'soft_labels', 'temporal_ensembling',
]  # fmt: skip

#: Probabilities stay in [EPS, 1 - EPS] (the authors' code), so 1 - <p, t> >= EPS and its logarithm is finite.
EPS = 1e-4

# The lowest logit below the largest. Its softmax is zero long before that, and a batch of such cross entropies can
# still be summed in float32. Infinite logits and NaN are left as they are: they must be seen, not mended.
_LOWEST = -1e30
_NO_LABEL = -(2**62)


def _stable(logits: Tensor) -> Tensor:
    """Shift the logits so that their maximum is 0 (no softmax changes), in at least float32."""
    z = logits if logits.dtype == torch.float64 else logits.float()
    z_shifted = z - z.detach().amax(dim=-1, keepdim=True)
    return torch.where(z.isinf(), z_shifted, z_shifted.clamp(min=_LOWEST))


def probabilities(logits: Tensor, eps: float = EPS) -> Tensor:
    """The network's probabilities p = softmax(logits), clamped to [eps, 1 - eps].

    Args:
        logits (Tensor): Outputs of the network, [N, C], any floating dtype, any finite size.
        eps (float): Bound of the clamp; 0 for none.

    Returns:
        Tensor: p, [N, C], float32 (float64 for float64 logits). Sums to one only up to the clamp.
    """
    # softmax takes the maximum off by itself.
    z = logits if logits.dtype == torch.float64 else logits.float()
    return z.softmax(dim=-1).clamp(eps, 1 - eps)


def log_probabilities(logits: Tensor) -> Tensor:
    """log p = log softmax(logits), without the clamp of :func:`probabilities`.

    Args:
        logits (Tensor): Outputs of the network, [N, C], any floating dtype, any finite size.

    Returns:
        Tensor: log p, [N, C], float32 (float64 for float64 logits), finite for finite logits: at least -1e30.
    """
    z = logits if logits.dtype == torch.float64 else logits.float()
    return z.log_softmax(dim=-1).clamp(min=_LOWEST)


def temporal_ensembling(t: Tensor, p: Tensor, beta: float) -> Tensor:
    r"""One step of target estimation (section 4 of the paper): :math:`t \leftarrow \beta t + (1 - \beta) p`.

    From t = 0, the k-th visit leaves t with sum :math:`1 - \beta^k` when every p sums to one.

    Args:
        t (Tensor): Targets, [N, C].
        p (Tensor): Detached probabilities, [N, C].
        beta (float): Momentum β in [0, 1).

    Returns:
        Tensor: The new targets, [N, C].
    """
    return beta * t + (1 - beta) * p


def elr_regularizer(p: Tensor, t: Tensor) -> Tensor:
    r"""The regulariser, :math:`\frac1N \sum_i \log(1 - \langle p_i, t_i \rangle)`, without λ (section 4 of the paper).

    It is 0 where p and t have nothing in common and falls as they agree: minimising it keeps each
    prediction close to what the network predicted for that sample before.

    Args:
        p (Tensor): Probabilities, [N, C], with gradient.
        t (Tensor): Targets, [N, C], a constant.

    Returns:
        Tensor: A scalar, at most 0.
    """
    # A product and a sum, no matmul: autocast would run that one in half precision.
    return torch.log1p(-(p * t.detach()).sum(dim=-1)).mean()


def soft_labels(labels: Tensor, num_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Labels as a distribution over the classes.

    Args:
        labels (Tensor): Class indices [N], or already distributions [N, C].
        num_classes (int): C.
        dtype (torch.dtype): Of the result.

    Returns:
        Tensor: y, [N, C].
    """
    if labels.dim() == 2:
        return labels.to(dtype)
    return F.one_hot(labels.long(), num_classes).to(dtype)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    r"""The first term of the ELR loss, :math:`-\frac1N \sum_{i,c} y_{ic} \log p_{ic}`, without the clamp.

    Args:
        logits (Tensor): Outputs of the network, [N, C], any floating dtype, any finite size.
        labels (Tensor): Class indices [N] in [0, C), or distributions [N, C].

    Returns:
        Tensor: A scalar in float32 (float64 for float64 logits).
    """
    z = _stable(logits)
    if labels.dim() == 2:
        labels = labels.to(z.dtype)
    # No label is skipped: by default cross entropy would leave out samples labelled -100.
    return F.cross_entropy(z, labels, ignore_index=_NO_LABEL)


def elr_loss(logits: Tensor, labels: Tensor, t: Tensor, lam: float, eps: float = EPS) -> Tensor:
    r"""The ELR loss (section 4 of the paper): cross entropy plus λ times the regulariser.

    .. math::
        L = \frac1N \sum_i \Bigl( -\sum_c y_{ic} \log p_{ic} + \lambda \log(1 - \langle p_i, t_i \rangle) \Bigr)

    The clamp of :func:`probabilities` acts in the regulariser alone, as in the published code.

    Args:
        logits (Tensor): Outputs of the network, [N, C], any floating dtype.
        labels (Tensor): Class indices [N] in [0, C), or distributions [N, C].
        t (Tensor): Targets after this step's :func:`temporal_ensembling`, [N, C].
        lam (float): Strength λ >= 0.
        eps (float): Bound of the clamp; 0 for none.

    Returns:
        Tensor: A scalar in float32 (float64 for float64 logits).
    """
    return cross_entropy(logits, labels) + lam * elr_regularizer(probabilities(logits, eps), t)


def regularizer_gradient(p: Tensor, t: Tensor, eps: float = EPS) -> Tensor:
    r"""Gradient of a sample's :math:`\log(1 - \langle p, t \rangle)` with respect to its logits (Lemma 2 of the paper).

    .. math::
        g_c = \frac{p_c}{1 - \langle p, t \rangle} \sum_k (t_k - t_c) \, p_k .

    Where t favours a class c, t_c is the largest, g_c is negative and descent raises that logit. For a wrongly
    labelled sample this counters p - y; for a correctly labelled one it replaces the push that vanishes as p → y.

    The clamp passes no gradient where it binds. That is Lemma 2 again with the bound classes' t set to zero in
    the sum, and the clamped p in the denominator.

    Args:
        p (Tensor): Probabilities before the clamp, [N, C].
        t (Tensor): Targets, [N, C].
        eps (float): Bound of the clamp; 0 for Lemma 2 to the letter.

    Returns:
        Tensor: g, [N, C].
    """
    inner = (p.clamp(eps, 1 - eps) * t).sum(dim=-1, keepdim=True)
    free = torch.where((p >= eps) & (p <= 1 - eps), t, torch.zeros_like(t))
    return p / (1 - inner) * ((free * p).sum(dim=-1, keepdim=True) - free)


def elr_gradient(logits: Tensor, labels: Tensor, t: Tensor, lam: float, eps: float = EPS) -> Tensor:
    r"""Gradient of the ELR loss with respect to the logits in closed form.

    Per sample, :math:`\frac1N (p - y + \lambda g)` with the g of :func:`regularizer_gradient`.

    Args:
        logits (Tensor): Outputs of the network, [N, C].
        labels (Tensor): Class indices [N], or distributions [N, C] that sum to one.
        t (Tensor): Targets, [N, C].
        lam (float): Strength λ.
        eps (float): Bound of the clamp; 0 for Lemma 2 to the letter.

    Returns:
        Tensor: [N, C], what autograd gives for :func:`elr_loss`.
    """
    p = probabilities(logits, eps=0)
    y = soft_labels(labels, p.shape[-1], p.dtype)
    return (p - y + lam * regularizer_gradient(p, t, eps)) / len(p)


def sigmoid_ramp_up(step: int, length: int) -> float:
    r"""The ramp of the authors' code of ELR+, :math:`\exp(-5 (1 - s / S)^2)`: from 0.0067 at s = 0 to 1 from s = S on.

    Args:
        step (int): s >= 0.
        length (int): S >= 0; with 0 there is no ramp, and the result is 1.

    Returns:
        float: In [exp(-5), 1].
    """
    return math.exp(-5 * (1 - step / length) ** 2) if step < length else 1.0
