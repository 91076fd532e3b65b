"""The losses of explicit process reward models: of labels, of counts of continuations, and of pairs of prefixes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

COUNT_EPS = 1e-6
"""What both parameters of the Beta distribution are above, as BetaPRM's code has it."""


def step_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the cross-entropy of each step, -t log s(z) - (1 - t) log(1 - s(z)), s the sigmoid.

    z is the logit for right minus the logit for wrong. So this is the cross-entropy of two classes, as TRL's PRM trainer and
    transformers' token classification have it, and of Math-Shepherd's two tokens renormalised over the two; with soft targets it
    is the cross-entropy of distributions.

    Args:
        logits: Logits z. Float, shape [n].
        targets: Probability t that each step is right. Float, shape [n].

    Returns:
        The losses. Shape [n].
    """
    return -targets * logsigmoid(logits) - (1 - targets) * logsigmoid(-logits)


def beta_binomial_losses(logits: Tensor, concentrations: Tensor, successes: Tensor, trials: Tensor) -> Tensor:
    """Compute the negative log-likelihood of counts, -log P(K = k), K ~ BetaBinomial(n, a, b).

    With m = s(z) the mean and c the concentration, a = m c + e and b = (1 - m) c + e, e = `COUNT_EPS`: the loss of BetaPRM (arXiv
    2605.15529, its released code). The gamma functions of the textbook form are written as products, because k and n are whole
    numbers:

        P(K = k) = C(n, k) * prod_{j<k} (a + j) * prod_{j<n-k} (b + j) / prod_{j<n} (a + b + j)

    Every factor is divided by c, which cancels, since there are as many above as below. So nothing large is subtracted from
    something large, and where c grows without limit the loss is that of the binomial distribution: n times the cross-entropy with
    the target k / n, less log C(n, k).

    Args:
        logits: Logits z of the means. Float, shape [n_steps].
        concentrations: Concentrations c, above 0. Float, shape [n_steps].
        successes: Right continuations k, whole numbers from 0. Float, shape [n_steps].
        trials: All continuations n, at least k. Float, shape [n_steps].

    Returns:
        The losses. Shape [n_steps].
    """
    wrong = trials - successes
    j = torch.arange(int(trials.max()) if len(trials) else 0, device=logits.device, dtype=logits.dtype)

    def product(base: Tensor, shift: float, count: Tensor) -> Tensor:
        """The log of prod_{j<count} (base + (j + shift) / c)."""
        factors = torch.log(base[:, None] + (j + shift) / concentrations[:, None])
        return torch.where(j < count[:, None], factors, 0.0).sum(dim=1)

    ways = torch.lgamma(trials + 1) - torch.lgamma(successes + 1) - torch.lgamma(wrong + 1)
    right_part = product(torch.sigmoid(logits), COUNT_EPS, successes)
    wrong_part = product(torch.sigmoid(-logits), COUNT_EPS, wrong)
    return product(torch.ones_like(logits), 2 * COUNT_EPS, trials) - ways - right_part - wrong_part


def overconfidence(logits: Tensor, concentrations: Tensor, successes: Tensor, trials: Tensor) -> Tensor:
    """Compute |m - k / n| c of each step, with no gradient through the mean m.

    BetaPRM's code adds it to the likelihood with a small weight: a step that is predicted badly is to have a low concentration.

    Args:
        logits: Logits of the means. Float, shape [n].
        concentrations: Concentrations c. Float, shape [n].
        successes: Right continuations k. Float, shape [n].
        trials: All continuations n. Float, shape [n].

    Returns:
        The products. Shape [n].
    """
    return (torch.sigmoid(logits).detach() - successes / trials).abs() * concentrations


def pair_losses(values: Tensor, better: Tensor, worse: Tensor) -> Tensor:
    """Compute -log s(v_better - v_worse) of each pair of prefixes, s the sigmoid: the loss of Bradley and Terry.

    Args:
        values: Values v of prefixes. Float, shape [n].
        better: Index of the prefix of a pair with the larger gain. int64, shape [n_pairs].
        worse: Index of the other. int64, shape [n_pairs].

    Returns:
        The losses. Shape [n_pairs].
    """
    return -logsigmoid(values[better] - values[worse])
