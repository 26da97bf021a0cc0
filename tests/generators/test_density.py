"""Densities of classes: what they are fitted to, what they draw, and noise that keeps moments."""

import pickle

import numpy as np
import pytest
import torch

from avalanche_dgm.data import Replay
from avalanche_dgm.errors import RangeError, ShapeError
from avalanche_dgm.generators import ClassDensity, gaussian


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def learn(density, entry, samples, **options):
    """Learns samples of one class, given by group, task label and label."""
    group, task, label = entry
    tasks, labels = (torch.full((len(samples),), number) for number in (task, label))
    density.add(samples, tasks, labels, group=group, **options)


def draw(density, n, rng):
    rows = density.classes.balanced(n, rng)
    return density.sample(rows, rng), density.classes.rows[rows]


def correlated(n, z=4):
    """Codes with a known mean and covariance."""
    root = torch.randn(z, z)
    return 3 + torch.randn(n, z) @ root.T, root @ root.T


def test_moments_are_recovered():
    density = ClassDensity()
    codes, covariance = correlated(20_000)
    variances = torch.full_like(codes, -1.0).exp()
    learn(density, (0, 0, 7), codes, variances=variances)
    drawn, entries = draw(density, 40_000, rng())
    assert entries.unique(dim=0).tolist() == [[0, 0, 7]]
    # The aggregate posterior is wider than the means by the mean posterior variance.
    expected = covariance + torch.eye(4) * torch.tensor(-1.0).exp()
    scale = expected.diagonal().max()
    assert (drawn.mean(0) - codes.mean(0)).abs().max() < 0.05 * scale.sqrt()
    assert (torch.cov(drawn.T) - expected).abs().max() < 0.05 * scale
    # The off-diagonal part is really there: a diagonal density would fail.
    assert (expected - torch.diag(expected.diagonal())).abs().max() > 0.2 * scale


def test_one_sample_is_enough():
    density = ClassDensity()
    learn(density, (0, 0, 0), torch.ones(1, 3))
    codes, _ = draw(density, 100, rng())
    assert (codes - 1).abs().max() < 0.02


def four_entries():
    density = ClassDensity()
    for entry in [(0, 0, 1), (0, 0, 2), (1, 0, 2), (2, 1, 5)]:
        learn(density, entry, torch.randn(10, 2), variances=torch.ones(10, 2))
    return density


def test_fitting_again_replaces():
    density = four_entries()
    learn(density, (0, 0, 2), torch.full((10, 2), 50.0), merge=False)
    assert len(density.classes) == 4
    assert density.seen.tolist() == [10] * 4
    codes, entries = draw(density, 60, rng())
    moved = (entries == torch.tensor([0, 0, 2])).all(1)
    assert moved.any()
    assert (codes[moved] > 40).all()
    assert (codes[~moved] < 40).all()


def test_state_dict_into_an_empty_one_draws_the_same():
    density, empty = four_entries(), ClassDensity()
    empty.load_state_dict(density.state_dict())
    assert len(empty.classes) == 4
    for a, b in zip(draw(density, 33, rng(5)), draw(empty, 33, rng(5)), strict=True):
        assert torch.equal(a, b)


def test_an_empty_state_empties():
    density = four_entries()
    density.load_state_dict(ClassDensity().state_dict())
    assert len(density.classes) == len(density.means) == len(density.covariances) == 0
    assert density.shape is None


def test_drawing_has_no_gradient():
    density = ClassDensity()
    learn(density, (0, 0, 0), torch.randn(5, 2, requires_grad=True))
    assert not draw(density, 3, rng())[0].requires_grad


def test_a_class_that_comes_in_parts_is_known_as_if_it_came_at_once():
    """Mean and covariance of all codes, whatever the sizes of the parts."""
    torch.manual_seed(0)
    codes = torch.randn(60, 3) @ torch.randn(3, 3) + 5
    once, parts = ClassDensity(), ClassDensity()
    learn(once, (0, 0, 4), codes)
    start = 0
    for size in (7, 1, 40, 12):
        part = slice(start, start + size)
        learn(parts, (0, 0, 4), codes[part])
        start += size
    assert parts.seen.tolist() == once.seen.tolist() == [60]
    torch.testing.assert_close(parts.means, once.means)
    square = [d.covariances.dense(0) for d in (parts, once)]
    torch.testing.assert_close(*square, rtol=1e-4, atol=1e-4)


def classes(n=400, d=3, seed=0):
    """Vectors of three classes, one of them under two task labels, each with its own spread."""
    made = np.random.default_rng(seed)
    samples, labels, tasks = [], [], []
    for row, (task, label) in enumerate([(0, 4), (0, 1), (1, 4)]):
        mixing = made.normal(size=(d, d))
        samples.append(made.normal(size=(n, d)) @ mixing.T + 10 * row)
        labels += [label] * n
        tasks += [task] * n
    order = made.permutation(len(labels))
    flat = torch.tensor(np.concatenate(samples), dtype=torch.float32)
    return flat[order], torch.tensor(labels)[order], torch.tensor(tasks)[order]


def of(samples, labels, tasks, task, label):
    return samples[(labels == label) & (tasks == task)].double().numpy()


@pytest.mark.parametrize("cuts", [[], [7], [1, 200, 1100]])
def test_moments_are_those_of_all_samples_however_they_came(cuts):
    samples, labels, tasks = classes()
    density = ClassDensity()
    for part in torch.tensor_split(torch.arange(len(labels)), cuts):
        density.add(samples[part].view(-1, 3, 1), tasks[part], labels[part])
    pairs = density.classes.rows[:, 1:].tolist()
    assert sorted(pairs) == [[0, 1], [0, 4], [1, 4]]
    assert density.seen.tolist() == [400] * 3
    factors = torch.zeros(3, 3, 3)
    rows, columns = np.tril_indices(3)
    factors[:, rows, columns] = density.covariances.packed
    for row, (task, label) in enumerate(pairs):
        mine = of(samples, labels, tasks, task, label)
        np.testing.assert_allclose(density.means[row], mine.mean(axis=0), rtol=1e-4)
        found = (factors[row] @ factors[row].T).numpy()
        np.testing.assert_allclose(found, np.cov(mine.T, bias=True), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_noise_keeps_mean_and_covariance_of_each_class(strength):
    samples, labels, tasks = classes()
    density = ClassDensity()
    density.add(samples, tasks, labels)
    index = torch.arange(len(labels)).repeat(60)
    replay = Replay(samples[index].view(-1, 3, 1), labels[index], tasks[index])
    made = density.jitter(replay, strength, rng())
    assert made.images.shape == replay.images.shape
    assert torch.equal(made.labels, replay.labels)
    assert torch.equal(made.tasks, replay.tasks)
    for _, task, label in density.classes.rows.tolist():
        mine = of(samples, labels, tasks, task, label)
        drawn = of(made.images.flatten(1), made.labels, made.tasks, task, label)
        np.testing.assert_allclose(drawn.mean(axis=0), mine.mean(axis=0), atol=0.06)
        spread = np.cov(mine.T, bias=True)
        found = np.cov(drawn.T, bias=True)
        np.testing.assert_allclose(found, spread, atol=0.05 * np.abs(spread).max())
    flat, before = made.images.flatten(), replay.images.flatten()
    if strength == 0:
        torch.testing.assert_close(flat, before)
    together = np.corrcoef(
        *[of(r.images.flatten(1), r.labels, r.tasks, 0, 4)[:, 0] for r in (made, replay)]
    )[0, 1]
    assert together == pytest.approx((1 - strength**2) ** 0.5, abs=0.02)


def test_a_class_of_one_sample_and_of_equal_ones():
    density = ClassDensity()
    density.add(
        torch.tensor([[1.0, 2.0], [5.0, 5.0], [5.0, 5.0]]),
        torch.zeros(3, dtype=torch.int64),
        torch.tensor([0, 1, 1]),
    )
    replay = Replay(torch.tensor([[1.0, 2.0]]), torch.tensor([0]), torch.tensor([0]))
    torch.testing.assert_close(
        density.jitter(replay, 1.0, rng()).images, replay.images, atol=0.01, rtol=0
    )


def test_other_classes_stay_bit_for_bit():
    samples, labels, tasks = classes()
    density, known = ClassDensity(), tasks == 0
    density.add(samples[known], tasks[known], labels[known])
    before = density.covariances.packed.clone(), density.means.clone()
    density.add(samples[~known], tasks[~known], labels[~known])
    assert len(density.classes) == 3
    assert torch.equal(density.covariances.packed[:2], before[0])
    assert torch.equal(density.means[:2], before[1])


@pytest.mark.parametrize("scale", [1.0, 1e5])
def test_latents_that_do_not_vary_in_every_direction(scale):
    """As behind rectifiers; and of any size."""
    basis = torch.randn(2, 40, generator=rng(2))
    flat = scale * torch.relu(torch.randn(300, 2, generator=rng(3)) @ basis)
    none = torch.zeros(300, dtype=torch.int64)
    density = ClassDensity()
    density.add(flat, none, none)
    made = density.jitter(Replay(flat, none, none), 1.0, rng()).images
    assert bool(torch.isfinite(made).all())
    assert float(made.var(dim=0).sum()) == pytest.approx(float(flat.var(dim=0).sum()), rel=0.3)


def test_what_is_not_finite_changes_nothing():
    samples, labels, tasks = classes()
    density = ClassDensity()
    density.add(samples, tasks, labels)
    before = density.covariances.packed.clone()
    with pytest.raises(RangeError, match="NaN or infinite"):
        density.add(samples / 0, tasks, labels)
    assert torch.equal(density.covariances.packed, before)


def test_a_class_that_was_not_shown_is_left_as_it_is():
    samples, labels, tasks = classes()
    density, known = ClassDensity(), tasks == 0
    density.add(samples[known], tasks[known], labels[known])
    made = density.jitter(Replay(samples, labels, tasks), 0.7, rng()).images
    assert torch.equal(made[~known], samples[~known])
    assert not torch.isclose(made[known], samples[known]).all(dim=1).any()


@pytest.mark.parametrize("way", ["_multiply_all", "_multiply_by_row"])
def test_large_factors_are_multiplied_in_other_ways_with_the_same_result(way):
    samples, labels, tasks = classes()
    density = ClassDensity()
    density.add(samples, tasks, labels)
    vectors, rows = torch.randn(50, 3), torch.randint(2, (50,))
    factors = density.covariances._factors()
    found = getattr(gaussian, way)(factors, vectors, rows)
    torch.testing.assert_close(found, gaussian.multiply(factors, vectors, rows))


def test_a_copy_has_no_second_copy_of_the_matrices():
    samples, labels, tasks = classes()
    density = ClassDensity()
    density.add(samples, tasks, labels)
    replay = Replay(samples, labels, tasks)
    wanted = density.jitter(replay, 0.7, rng()).images
    loaded = pickle.loads(pickle.dumps(density))
    assert loaded.covariances._drawn_from is None
    assert torch.equal(loaded.jitter(replay, 0.7, rng()).images, wanted)
    # Loading others forgets those that were unpacked.
    other = ClassDensity()
    other.add(2 * samples, tasks, labels)
    loaded.load_state_dict(other.state_dict())
    made = loaded.jitter(replay, 0.7, rng()).images
    assert torch.equal(made, other.jitter(replay, 0.7, rng()).images)


def test_samples_of_another_size():
    density = ClassDensity()
    one = torch.zeros(1, dtype=torch.int64)
    density.add(torch.rand(1, 3), one, one)
    with pytest.raises(ShapeError, match="have 4 values, but 3"):
        density.add(torch.rand(1, 4), one, one + 1)
    assert density.means.shape == (1, 3)
    assert len(density.classes) == 1
