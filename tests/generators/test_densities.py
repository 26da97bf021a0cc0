"""All kinds of covariance: what is the same for each of them, and what each is for."""

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from avalanche_dgm.data import ExperienceData, Replay
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.generators import make_density
from avalanche_dgm.modules import size_in_bytes

#: Each kind by name, and what it is made with; a new one joins here.
KINDS = {
    "full": {},
    "shared": {},
    "low-rank": {"rank": 5},
    "low rank of 2": {"covariance": "low-rank", "rank": 2},
    "low rank of 8 bits": {"covariance": "low-rank", "rank": 5, "at_rest": "int8"},
    "low rank of 4 bits": {"covariance": "low-rank", "rank": 5, "at_rest": "int4"},
    "diagonal": {},
    "mixture": {},
    "mixture, own covariances": {"covariance": "full", "components": 3, "tied": "component"},
    "low-rank mixture": {"covariance": "low-rank", "rank": 5, "components": 2},
    "low-rank mixture, own covariances": {
        **{"covariance": "low-rank", "rank": 5, "components": 3, "tied": "component"}
    },
    "diagonal mixture, own covariances": {
        **{"covariance": "diagonal", "components": 3, "tied": "component"}
    },
    "several means, one covariance": {"covariance": "shared", "components": 3},
    "one diagonal": {"covariance": "diagonal", "tied": "all"},
}
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


def made(kind, **options):
    return make_density(**{"covariance": kind, **KINDS[kind], **options})


def learned(kind, *data, **options):
    density = made(kind, **options)
    for one in data:
        assert list(density.learn(one, rng())) == []
    return density


def drawn(density, label, n=20_000):
    row = density.classes.labels.tolist().index(label)
    return density.sample(torch.full((n,), row), rng()).flatten(1)


def of(data, label):
    return data.images[data.labels == label].flatten(1).double().numpy()


def parts_of(density, data, label):
    """Shares and means (c, D) of a class's clusters, and the covariance within them, by numpy."""
    row = density.classes.labels.tolist().index(label)
    samples, centres = of(data, label), density.centres[row].double().numpy()
    distances = ((samples[:, None] - centres) ** 2).sum(axis=2)
    nearest = np.where(density.shares[row].numpy() > 0, distances, np.inf).argmin(axis=1)
    found = [samples[nearest == i] for i in np.unique(nearest)]
    within = sum((x - x.mean(axis=0)).T @ (x - x.mean(axis=0)) for x in found) / len(samples)
    return [len(x) / len(samples) for x in found], [x.mean(axis=0) for x in found], within


def covariance_of(density, data, label):
    """What the covariance of a class must be."""
    shares, means, within = parts_of(density, data, label)
    if density.tied == "all":
        within = np.mean([parts_of(density, data, other)[2] for other in LABELS], axis=0)
    if not density.dense and density.covariances.rank == 0:
        within = np.diag(within.diagonal())
    apart = np.array(means) - of(data, label).mean(axis=0)
    return within + (apart.T * shares) @ apart


@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_moments_of_each_class(kind):
    data = experience()
    density = learned(kind, data)
    assert density.shape == (5,)
    for label in LABELS:
        samples, real = drawn(density, label).numpy(), of(data, label)
        wanted, found = covariance_of(density, data, label), np.cov(samples.T)
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(samples.mean(axis=0), real.mean(axis=0), atol=0.03 * scale**0.5)
        np.testing.assert_allclose(found.diagonal(), wanted.diagonal(), atol=0.04 * scale)
        if kind not in ("low rank of 2", "low rank of 4 bits"):
            np.testing.assert_allclose(found, wanted, atol=0.04 * scale)
        if density.tied != "all":
            # Whatever is left out or shared within a class, the variance of each value is exact.
            np.testing.assert_allclose(wanted.diagonal(), real.var(axis=0))


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
        means = once.means[rows[0]], several.means[rows[1]]
        tolerance = 1e-4 if once.at_rest == "float32" else 1e-3
        torch.testing.assert_close(*means, rtol=tolerance, atol=0.01)
        one, other = (drawn(d, label) for d in (once, several))
        if (once.tied, once.components) != ("all", 3):
            np.testing.assert_allclose(one.var(dim=0), other.var(dim=0), rtol=0.05)
        if kind in ("full", "shared", "diagonal", "one diagonal"):
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
    if density.tied == "all":
        torch.testing.assert_close(before.mean(dim=0), after.mean(dim=0), atol=0.5, rtol=0)
    else:
        assert torch.equal(before, after)


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_of_several_groups_has_a_density_in_each(kind):
    low, density = experience(labels=(4,)), made(kind)
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
    whole, half = learned(kind, data, at_rest="float32"), learned(kind, data, at_rest="float16")
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
    density, fresh = learned(kind, data, at_rest=at_rest), made(kind, at_rest=at_rest)
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
        if density.tied == "all":
            within = [parts_of(density, data, other)[2].diagonal() for other in (label, *LABELS)]
            wanted = wanted + 0.6**2 * (np.mean(within[1:], axis=0) - within[0])
        np.testing.assert_allclose(after.mean(axis=0), before.mean(axis=0), atol=0.3)
        np.testing.assert_allclose(after.var(axis=0), wanted, rtol=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_log_densities_are_those_of_the_normal_distribution(kind):
    """Of what is kept, by another implementation."""
    data = experience()
    # A factor of full rank leaves no variances, which takes more digits than there are.
    density = learned(kind, data, **({"rank": 2} if "rank" in KINDS[kind] else {}))
    found = density.log_densities(data.images)
    for row in range(3):
        places = {"all": [0] * 3, "class": [row] * 3, "component": range(3 * row, 3 * row + 3)}
        normals = MultivariateNormal(
            density.centres[row].double(),
            torch.stack([density.covariances.dense(p) for p in places[density.tied]])[
                : density.components
            ],
        )
        mixture = MixtureSameFamily(Categorical(density.shares[row]), normals)
        wanted = mixture.log_prob(data.images.double()).float()
        torch.testing.assert_close(found[:, row], wanted, rtol=2e-3, atol=1e-2)
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
    density = make_density("mixture", components=4)
    density.add(images, none, none)
    assert density.shares.tolist() == [[0.5, 0.5, 0.0, 0.0]]
    same = make_density("mixture", components=2)
    same.add(images[:1].expand(5, 2), none[:1].expand(5), none[:1].expand(5))
    assert same.shares.tolist() == [[1.0, 0.0]]


def test_low_rank_needs_no_matrix_of_the_values():
    """The directions found are those of the singular value decomposition; variances are exact."""
    flat = torch.randn(200, 30, generator=rng(1)) @ torch.diag(0.7 ** torch.arange(30.0))
    none = torch.zeros(200, dtype=torch.int64)
    density = make_density("low-rank", rank=3)
    density.add(flat.view(200, 3, 10), none, none)
    _, lengths, directions = np.linalg.svd((flat - flat.mean(dim=0)).numpy(), full_matrices=False)
    factor, scale = density.covariances.factors[0], density.covariances.scales[0]
    wanted = (directions[:3].T * lengths[:3] ** 2 / 200) @ directions[:3]
    np.testing.assert_allclose(factor @ factor.T, wanted, atol=1e-3)
    total = factor.square().sum(dim=1) + scale.square()
    np.testing.assert_allclose(total, flat.var(dim=0, correction=0), rtol=1e-4, atol=2e-6)
    kept = sum(b.numel() for b in density.buffers())
    # The number of samples, a share, a class, and mean, scales and factor.
    assert kept == 1 + 1 + 3 + 30 + 30 + 3 * 30


def test_shared_keeps_one_covariance():
    density = learned("shared", experience())
    assert density.covariances.packed.shape == (1, 15)
    pooled = np.mean([np.cov(of(experience(), label).T, bias=True) for label in LABELS], axis=0)
    np.testing.assert_allclose(density.covariances.dense(0), pooled, rtol=1e-3)


@pytest.mark.parametrize(("bits", "error"), [(8, 0.015), (4, 0.2)])
@pytest.mark.parametrize("d", [40, 41])
def test_factors_in_a_few_bits(bits, error, d):
    """They differ by a step at most, of 127 or 7 to the largest value; variances do not."""
    flat = torch.randn(300, d, generator=rng(1)) @ torch.diag(0.8 ** torch.arange(float(d)))
    none = torch.zeros(300, dtype=torch.int64)
    exact = make_density("low-rank", rank=6)
    small = make_density("low-rank", rank=6, at_rest=f"int{bits}")
    for density in (exact, small):
        density.add(flat, none, none)
    wanted = exact.covariances.factors[0]
    found = small.covariances._factors()[0]
    largest = wanted.abs().amax(dim=0)
    assert bool(((found - wanted).abs() <= 1.01 * largest / (2 ** (bits - 1) - 1)).all())
    assert float((found - wanted).norm() / wanted.norm()) < error
    covariance = small.covariances.dense(0)
    np.testing.assert_allclose(
        covariance.diagonal(), flat.var(dim=0, correction=0), rtol=2e-3, atol=2e-6
    )
    # Codes, steps, diagonal and mean; a share, the number of samples, and the class.
    assert size_in_bytes(small) == 6 * (-(-d * bits // 8) + 2) + 2 * 2 * d + 2 + 32
    assert small.bytes_of(1, d) == size_in_bytes(small)
    # Nothing changes at rest, and what is cut off goes to the diagonal.
    small.covariances.truncate(2)
    torch.testing.assert_close(small.covariances._factors()[0], found[:, :2])
    covariance = small.covariances.dense(0)
    np.testing.assert_allclose(
        covariance.diagonal(), flat.var(dim=0, correction=0), rtol=4e-3, atol=2e-6
    )


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("spherical", {}),
        ("full", {"tied": "row"}),
        ("full", {"shrinkage": 1.5}),
        ("low-rank", {"rank": 0}),
        ("mixture", {"components": 1.5}),
        ("full", {"at_rest": "int8"}),
        ("low-rank", {"at_rest": "int2"}),
    ],
)
def test_bad_settings(kind, options):
    with pytest.raises(ConfigError):
        make_density(kind, **options)
