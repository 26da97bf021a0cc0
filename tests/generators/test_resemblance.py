"""Generated samples that are unlike the real ones are found, and others are not."""

import pytest
import torch
from driver import digits

from avalanche_dgm.generators.resemblance import LEAST_SAMPLES, unlike

DATA = digits(3, 8)
ROWS = (DATA.labels == 8).long()


def of_class_8(change):
    """The real samples, with those of the class 8 changed."""
    generated = DATA.images.clone()
    generated[ROWS == 1] = change(generated[ROWS == 1])
    return generated


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda real: real + 0.2 * torch.randn_like(real), []),
        (lambda real: real.flip(0)[: len(real) // 2].repeat(2, 1, 1, 1), []),
        (lambda real: real[:1].expand_as(real), [1]),
        (lambda real: 1 - real, [1]),
        (lambda real: real.flatten(1).roll(31, 1).view_as(real), [1]),
        (lambda real: torch.full_like(real, float("nan")), [1]),
    ],
    ids=["noise", "half of them", "one for all", "inverted", "moved", "not a number"],
)
def test_a_class_that_is_unlike(change, found):
    torch.manual_seed(0)
    assert unlike(DATA.images, ROWS, of_class_8(change), ROWS) == found


def test_few_samples_and_constant_ones():
    few = torch.cat(
        [torch.nonzero(ROWS == 0)[:, 0], torch.nonzero(ROWS == 1)[:, 0][: LEAST_SAMPLES - 1]]
    )
    generated = of_class_8(lambda real: 1 - real)
    assert unlike(DATA.images, ROWS, generated[few], ROWS[few]) == []
    constant = torch.ones(20, 3)
    rows = torch.zeros(20, dtype=torch.int64)
    assert unlike(constant, rows, constant, rows) == []
    assert unlike(constant, rows, 2 * constant, rows) == [0]
