"""All kinds of covariance: what is the same for each of them, and what each is for."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from avalanche_dgm.data import ExperienceData, Replay
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.generators import LowRankDensity, MixtureDensity, make_density
from avalanche_dgm.modules import size_in_bytes

KINDS = ("full", "shared", "low-rank", "mixture")
LABELS = (4, 1, 7)

every_type = pytest.mark.parametrize("at_rest", ["float32", "float16"])


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def experience(n=300, d=5, seed=0, labels=LABELS):
    """Classes of two clusters each, with covariances of their own, in random order."""
    made = np.random.default_rng(seed)
    samples, found = [], []
    for label in labels:
        mixing = np.random.default_rng(label).normal(size=(d, d))
        clusters = made.normal(size=(n, d)) @ mixing.T + 20 * made.integers(2, size=(n, 1))
        samples.append(clusters + 5 * label)
        found += [label] * n
    order = made.permutation(len(found))
    images = torch.tensor(np.concatenate(samples), dtype=torch.float32)[order]
    tasks = torch.zeros(len(found), dtype=torch.int64)
    return ExperienceData(images, torch.tensor(found)[order], tasks, "0")


def learned(kind, *data, **options):
    density = make_density(kind, **options)
    for one in data:
        assert list(density.learn(one, rng())) == []
    return density


def drawn(density, label, n=20_000):
    row = density.classes.labels.tolist().index(label)
    return density.sample(torch.full((n,), row), rng()).flatten(1)


def of(data, label):
    return data.images[data.labels == label].flatten(1).double().numpy()


def pooled(data):
    return np.mean([np.cov(of(data, label).T, bias=True) for label in LABELS], axis=0)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_moments_of_each_class(kind):
    data = experience()
    density = learned(kind, data, **({"rank": 5} if kind == "low-rank" else {}))
    assert density.shape == (5,)
    for label in LABELS:
        samples, real = drawn(density, label).numpy(), of(data, label)
        wanted = pooled(data) if kind == "shared" else np.cov(real.T, bias=True)
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(samples.mean(axis=0), real.mean(axis=0), atol=0.03 * scale**0.5)
        np.testing.assert_allclose(np.cov(samples.T), wanted, atol=0.04 * scale)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cuts", [[300], [5, 6, 500]])
def test_a_class_that_comes_in_parts(kind, cuts):
    """Mean and variance of what is drawn do not depend on it; of a full covariance, nothing."""
    data = experience()
    # Labels in the order of the whole, though a part may lack some.
    parts = [data.take(part) for part in torch.arange(len(data)).tensor_split(cuts)]
    once, several = learned(kind, data), learned(kind, *parts)
    for label in LABELS:
        rows = [d.classes.labels.tolist().index(label) for d in (once, several)]
        assert once.seen[rows[0]] == several.seen[rows[1]] == 300
        torch.testing.assert_close(
            once.means[rows[0]], several.means[rows[1]], rtol=1e-4, atol=0.01
        )
        one, other = (drawn(d, label) for d in (once, several))
        np.testing.assert_allclose(one.var(dim=0), other.var(dim=0), rtol=0.05)
        if kind in ("full", "shared"):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=0.01)


@pytest.mark.parametrize("kind", KINDS)
@every_type
def test_other_classes_stay_and_are_not_replayed(kind, at_rest):
    first, second = experience(labels=(4, 1)), experience(labels=(7,), seed=3)
    density = learned(kind, first, at_rest=at_rest)
    before = drawn(density, 4)
    list(density.learn(second, rng()))
    after = drawn(density, 4)
    assert not density.rehearses
    if kind == "shared":
        torch.testing.assert_close(before.mean(dim=0), after.mean(dim=0), atol=0.5, rtol=0)
    else:
        assert torch.equal(before, after)


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_of_several_groups_has_a_density_in_each(kind):
    low, density = experience(labels=(4,)), make_density(kind)
    for group, shift in enumerate((0, 1000)):
        data = ExperienceData(low.images + shift, low.labels, low.tasks, "0")
        list(density.learn(data, rng(), groups=torch.full_like(low.labels, group)))
    assert density.classes.rows.tolist() == [[0, 0, 4], [1, 0, 4]]
    samples = density.sample(density.classes.balanced(100, rng()), rng())
    assert int((samples.mean(dim=1) > 500).sum()) == 50


@pytest.mark.parametrize("kind", KINDS)
def test_fit_learns_anew(kind):
    data = experience()
    density = learned(kind, data)
    rows = torch.zeros(50, dtype=torch.int64)
    assert list(density.fit(torch.randn(50, 5) + 99, rows, rng())) == []
    assert density.seen.tolist() == [50, 300, 300]
    torch.testing.assert_close(density.means[0], torch.full((5,), 99.0), atol=0.6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_at_rest_alone(kind):
    data = experience()
    whole, half = learned(kind, data), learned(kind, data, at_rest="float16")
    kept = [b for b in half.buffers() if b.is_floating_point()]
    assert {b.dtype for b in kept} == {torch.float16}
    assert sum(b.nbytes for b in kept) * 2 == sum(
        b.nbytes for b in whole.buffers() if b.is_floating_point()
    )
    rows = half.classes.balanced(99, rng())
    samples, exact = half.sample(rows, rng(1)), whole.sample(rows, rng(1))
    assert samples.dtype == half.score(samples).dtype == torch.float32
    torch.testing.assert_close(samples, exact, rtol=0, atol=2e-3 * float(exact.abs().max()))
    assert {b.dtype for b in half.buffers() if b.is_floating_point()} == {torch.float16}


@pytest.mark.parametrize("kind", KINDS)
@every_type
def test_state_dict_into_an_empty_one_draws_the_same(kind, at_rest):
    data = experience()
    images = data.images.view(-1, 5, 1, 1)
    data = ExperienceData(images, data.labels, data.tasks, "0")
    density, fresh = learned(kind, data, at_rest=at_rest), make_density(kind, at_rest=at_rest)
    fresh.load_state_dict(density.state_dict())
    assert size_in_bytes(fresh) == size_in_bytes(density)
    rows = density.classes.balanced(33, rng())
    found = fresh.sample(rows, rng(1))
    assert found.shape == (33, 5, 1, 1)
    assert torch.equal(found, density.sample(rows, rng(1)))
    assert torch.equal(fresh.score(images), density.score(images))


@pytest.mark.parametrize("kind", KINDS)
def test_one_sample_is_enough(kind):
    data = ExperienceData(torch.ones(1, 3), torch.tensor([2]), torch.tensor([0]), "0")
    samples = drawn(learned(kind, data), 2, 100)
    assert (samples - 1).abs().max() < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_noise_keeps_the_moments(kind):
    data = experience(n=20_000)
    density = learned(kind, data)
    made = density.jitter(Replay(data.images, data.labels, data.tasks), 0.6, rng())
    for label in LABELS:
        before, after = of(data, label), made.images[made.labels == label].numpy()
        wanted = before.var(axis=0)
        if kind == "shared":
            wanted = (1 - 0.6**2) * wanted + 0.6**2 * pooled(data).diagonal()
        np.testing.assert_allclose(after.mean(axis=0), before.mean(axis=0), atol=0.3)
        np.testing.assert_allclose(after.var(axis=0), wanted, rtol=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_log_densities_are_those_of_the_normal_distribution(kind):
    """Of what is kept, by another implementation."""
    data = experience()
    density = learned(kind, data, **({"rank": 2} if kind == "low-rank" else {}))
    found = density.log_densities(data.images)
    for row in range(3):
        offsets, shares = torch.zeros(1, 5), torch.ones(1)
        if kind == "low-rank":
            factor = density.factors[row]
            covariance = factor @ factor.T + density.scales[row].square().diag()
        elif kind == "shared":
            covariance = density.factors.covariance(0)
        else:
            covariance = density.factors.covariance(row)
        if kind == "mixture":
            offsets, shares = density.offsets[row], density.shares[row]
        wanted = sum(
            float(share)
            * multivariate_normal((density.means[row] + offset).numpy(), covariance.numpy()).pdf(
                data.images.numpy()
            )
            for offset, share in zip(offsets, shares, strict=True)
        )
        likely = wanted > 1e-30
        np.testing.assert_allclose(found[likely, row], np.log(wanted[likely]), rtol=2e-3, atol=1e-2)
    # Each class counts the same.
    total = torch.logsumexp(found, dim=1) - np.log(3)
    torch.testing.assert_close(density.score(data.images), -total)


def test_a_class_of_two_task_labels_counts_once():
    data = experience(labels=(4, 1))
    other = ExperienceData(data.images, data.labels, data.tasks + 1, "1")
    both = other.take((other.labels == 4).nonzero()[:, 0])
    once, twice = learned("full", data), learned("full", data, both)
    torch.testing.assert_close(once.score(data.images), twice.score(data.images))


def test_a_mixture_draws_from_its_clusters_and_not_between():
    data = experience(n=600)
    for kind, between in (("mixture", False), ("full", True)):
        samples = drawn(learned(kind, data), 4).mean(dim=1) - 20
        # The clusters are 20 apart and about 1.5 wide, in the mean of the values.
        assert bool(((samples - 10).abs() < 3).float().mean() > 0.05) is between


def test_a_mixture_has_no_more_components_than_samples():
    images = torch.tensor([[0.0, 0.0], [8.0, 8.0]])
    none = torch.zeros(2, dtype=torch.int64)
    density = MixtureDensity(components=4)
    density.add(images, none, none)
    assert density.shares.tolist() == [[0.5, 0.5, 0.0, 0.0]]
    same = MixtureDensity(components=2)
    same.add(images[:1].expand(5, 2), none[:1].expand(5), none[:1].expand(5))
    assert same.shares.tolist() == [[1.0, 0.0]]


def test_low_rank_needs_no_matrix_of_the_values():
    """The directions found are those of the singular value decomposition; variances are exact."""
    flat = torch.randn(200, 30, generator=rng(1)) @ torch.diag(0.7 ** torch.arange(30.0))
    none = torch.zeros(200, dtype=torch.int64)
    density = LowRankDensity(rank=3)
    density.add(flat.view(200, 3, 10), none, none)
    _, lengths, directions = np.linalg.svd((flat - flat.mean(dim=0)).numpy(), full_matrices=False)
    wanted = (directions[:3].T * lengths[:3] ** 2 / 200) @ directions[:3]
    np.testing.assert_allclose(density.factors[0] @ density.factors[0].T, wanted, atol=1e-3)
    total = density.factors[0].square().sum(dim=1) + density.scales[0].square()
    np.testing.assert_allclose(total, flat.var(dim=0, correction=0), rtol=1e-4, atol=2e-6)
    kept = sum(b.numel() for b in density.buffers())
    assert kept == 1 + 3 + 30 + 30 + 3 * 30


def test_shared_keeps_one_covariance():
    density = learned("shared", experience())
    assert density.factors.packed.shape == (1, 15)
    np.testing.assert_allclose(density.factors.covariance(0), pooled(experience()), rtol=1e-3)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("diagonal", {}),
        ("low-rank", {"rank": 0}),
        ("mixture", {"components": 1.5}),
        ("full", {"at_rest": "int8"}),
    ],
)
def test_bad_settings(kind, options):
    with pytest.raises(ConfigError):
        make_density(kind, **options)
