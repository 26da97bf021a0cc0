"""What is found out of a user's criterion: its scale, and whether it is a mean or a sum."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.losses import measure_criterion

K = 10


def one_hot(labels):
    return F.one_hot(labels, K).float()


def focal(logits, labels):
    losses = F.cross_entropy(logits, labels, reduction="none")
    return ((1 - (-losses).exp()) ** 2 * losses).mean()


def squares(logits, labels):
    return F.mse_loss(logits, one_hot(labels), reduction="sum")


def l1(logits, labels):
    return F.l1_loss(logits, one_hot(labels))


def measured(criterion, classes=range(K)):
    return measure_criterion(criterion, width=K, classes=classes, like=torch.empty(()))


#: Criterion, its factor, whether it sums. By hand: where all classes are rated alike, the gradient
#: of cross-entropy is 1/K - y; each factor is what another one's is in terms of it.
KNOWN = {
    "plain": (F.cross_entropy, 1, False),
    "ten-times": (lambda o, t: 10 * F.cross_entropy(o, t), 10, False),
    "a-tenth": (lambda o, t: F.cross_entropy(o, t) / 10, 0.1, False),
    "sum": (nn.CrossEntropyLoss(reduction="sum"), 1, True),
    "sum-by-64": (lambda o, t: F.cross_entropy(o, t, reduction="sum") / 64, 1 / 64, True),
    "weights": (nn.CrossEntropyLoss(torch.arange(1.0, 11)), 1, False),
    "weights-sum": (nn.CrossEntropyLoss(torch.arange(1.0, 11), reduction="sum"), 5.5, True),
    "smoothing": (nn.CrossEntropyLoss(label_smoothing=0.2), 0.8, False),
    "ignored": (nn.CrossEntropyLoss(ignore_index=3), 1, False),
    "log-likelihood": (nn.NLLLoss(), 1, False),
    "plus-something": (lambda o, t: F.cross_entropy(o, t) + 7.0, 1, False),
    # (1 - p)^2 - 2 p (1 - p) log p with p = 1/K
    "focal": (focal, 0.81 + 0.18 * torch.tensor(10.0).log().item(), False),
    "squares": (squares, 2, True),
    "absolute": (l1, 2 / K, False),
    "hinge": (nn.MultiMarginLoss(), 1, False),
    "binary": (lambda o, t: F.binary_cross_entropy_with_logits(o, one_hot(t)), 1 / K, False),
    # of probabilities: 1 / (p (1 - p)) / K, times the derivative p of the softmax
    "probabilities": (lambda o, t: F.binary_cross_entropy(o, one_hot(t)), 0.1 / 0.9, False),
}


@pytest.mark.parametrize("name", KNOWN)
def test_scale(name):
    criterion, factor, sums = KNOWN[name]
    found = measured(criterion)
    assert found.factor == pytest.approx(factor, rel=1e-3)
    assert found.sums is sums
    assert found.judged == frozenset(range(K)) - ({3} if name == "ignored" else set())
    other = {"log-likelihood": "log-probabilities", "probabilities": "probabilities"}
    assert found.takes == other.get(name, "logits")


@pytest.mark.parametrize("classes", [[4], [2, 7], range(K)])
@pytest.mark.parametrize("scale", [1, 10, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_it_does_not_depend_on_the_classes_of_an_experience(classes, scale, reduction):
    found = measured(lambda o, t: scale * F.cross_entropy(o, t, reduction=reduction), classes)
    # Exactly: a criterion that is the mean cross-entropy changes nothing, bit by bit.
    assert found == (scale, reduction == "sum", frozenset(classes), "logits")


REFUSED = {
    "each": (nn.CrossEntropyLoss(reduction="none"), "not a scalar"),
    "number": (lambda o, t: 3.0, "not a scalar"),
    "not-a-number": (lambda o, t: F.cross_entropy(o, t) * float("nan"), "not finite"),
    "random": (lambda o, t: F.cross_entropy(o, t) * torch.rand(()), "different gradients"),
    "detached": (lambda o, t: F.cross_entropy(o.detach(), t), "does not depend"),
    "between": (lambda o, t: F.cross_entropy(o, t) * len(t) ** 0.5, "neither a mean nor a sum"),
    "upside-down": (lambda o, t: -F.cross_entropy(o, t), "does not decrease"),
    "three-arguments": (lambda o, t, x: F.cross_entropy(o, t), "missing 1 required"),
    "other-width": (nn.CrossEntropyLoss(torch.ones(K + 1)), "weight"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_weighed_against_is_refused(name):
    criterion, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        measured(criterion)


def test_measuring_draws_no_random_numbers():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with pytest.raises(ConfigError):
        measured(REFUSED["random"][0])
    assert torch.equal(torch.rand(4), expected)


def test_a_single_class_that_has_no_alternative_says_nothing():
    def masked(logits, labels):
        return F.cross_entropy(logits[:, [4]], torch.zeros_like(labels))

    assert measured(masked, [4]) == (1.0, False, frozenset(), "logits")
