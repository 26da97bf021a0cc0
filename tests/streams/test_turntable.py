"""The turntable: geometry against formulas, streams against their options, what can be learned."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from avalanche_dgm.errors import ConfigError, DataError
from avalanche_dgm.streams import STREAMS, make_stream, turntable, turntable_domains
from avalanche_dgm.streams.rendering import N_VIEWPOINTS, _camera, render
from avalanche_dgm.streams.vehicles import CATEGORIES, Part


@pytest.fixture(scope="module")
def few():
    return render(1, fraction=0.1)


class TestParts:
    def test_balls_and_boxes_and_tubes_have_their_shapes(self):
        points, normals = Part("ball", (1, 2, 3), (0.5, 0.3, 0.2), 1.0).surface(500)
        local = (points - torch.tensor([1.0, 2, 3])) / torch.tensor([0.5, 0.3, 0.2])
        torch.testing.assert_close(local.norm(dim=1), torch.ones(500))
        # The gradient of x^2 / a^2 + ... points outwards.
        gradient = F.normalize(local / torch.tensor([0.5, 0.3, 0.2]), dim=1)
        torch.testing.assert_close(normals, gradient, atol=1e-4, rtol=0)

        size = torch.tensor([0.5, 0.3, 0.2])
        points, normals = Part("box", (0, 0, 0), tuple(size.tolist()), 1.0).surface(2000)
        torch.testing.assert_close((points / size).abs().amax(dim=1), torch.ones(2000))
        outwards = ((points / size) * normals).sum(dim=1)
        torch.testing.assert_close(outwards, torch.ones(2000))

        points, normals = Part("tube", (0, 0, 0), (0.5, 0.2, 0.2), 1.0, axis=0).surface(2000)
        radius, along = points[:, 1:].norm(dim=1), points[:, 0]
        side = normals[:, 0].abs() < 0.5
        torch.testing.assert_close(radius[side], torch.full_like(radius[side], 0.2))
        torch.testing.assert_close(along[~side].abs(), torch.full_like(along[~side], 0.5))
        assert bool((radius <= 0.2 + 1e-5).all())

    def test_points_are_spread_by_area(self):
        size = (0.8, 0.4, 0.2)
        _, normals = Part("box", (0, 0, 0), size, 1.0).surface(4000)
        areas = torch.tensor([size[1] * size[2], size[0] * size[2], size[0] * size[1]])
        share = normals.abs().mean(dim=0)
        torch.testing.assert_close(share, areas / areas.sum(), atol=0.01, rtol=0)
        points, _ = Part("tube", (0, 0, 0), (0.3, 0.3, 0.5), 1.0, axis=2).surface(4000)
        caps = (points[:, 2].abs() > 0.4999).float().mean()
        assert float(caps) == pytest.approx(0.3 / (0.3 + 1.0), abs=0.01)
        # Half of a disc's area lies within the radius over the square root of two.
        on_cap = points[points[:, 2].abs() > 0.4999]
        inner = (on_cap[:, :2].norm(dim=1) < 0.3 / math.sqrt(2)).float().mean()
        assert float(inner) == pytest.approx(0.5, abs=0.03)

    def test_tapered_tubes_lean_their_normals(self):
        part = Part("tube", (0, 0, 0), (0.5, 0.4, 0.4), 1.0, taper=0.5)
        points, normals = part.surface(3000)
        side = normals[:, 0].abs() < 0.9
        width = points[side, 1:].norm(dim=1)
        torch.testing.assert_close(width, 0.3 - 0.2 * points[side, 0], atol=1e-5, rtol=0)
        # It falls by 0.2 a unit of length, so that its normal rises by as much.
        slope = normals[side, 0] / normals[side, 1:].norm(dim=1)
        torch.testing.assert_close(slope, torch.full_like(slope, 0.2), atol=1e-5, rtol=0)


class TestCamera:
    def test_axes(self):
        turn, height = torch.tensor([0.0, math.pi / 2, 0.0]), torch.tensor([0.0, 0.0, math.pi / 2])
        camera = _camera(turn, height)
        torch.testing.assert_close(
            camera.transpose(1, 2) @ camera, torch.eye(3).expand(3, 3, 3), atol=1e-6, rtol=0
        )
        torch.testing.assert_close(torch.linalg.det(camera), torch.ones(3))
        front, top = torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 0, 1])
        # Seen from in front: the front is nearest. Turned by 90 degrees: it points right.
        # From above: the top is nearest, the front is below.
        expected = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]])
        torch.testing.assert_close(front @ camera, expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(
            top @ camera, torch.tensor([[0.0, 1, 0], [0, 1, 0], [0, 0, 1]]), atol=1e-6, rtol=0
        )


class TestRender:
    def test_every_pair_comes_as_often(self):
        views = render(2, size=8)
        pairs = views.categories * N_VIEWPOINTS + views.viewpoints
        assert len(CATEGORIES) == 10
        assert N_VIEWPOINTS == 88
        assert pairs.bincount().tolist() == [2] * 880
        assert not torch.equal(pairs, pairs.sort().values)

    def test_images(self, few):
        assert few.images.shape == (88, 1, 32, 32)
        assert few.images.dtype == torch.float32
        assert few.images.min() >= 0
        assert few.images.max() <= 1
        assert bool((few.images.flatten(1).std(dim=1) > 0.02).all())
        assert few.viewpoints.bincount().tolist() == [1] * 88

    def test_seeds(self, few):
        again, other = render(1, fraction=0.1), render(1, fraction=0.1, seed=1)
        assert torch.equal(few.images, again.images)
        assert torch.equal(few.categories, again.categories)
        assert not torch.equal(few.images, other.images)

    def test_colour_and_size(self):
        views = render(1, size=20, channels=3, fraction=0.1)
        assert views.images.shape == (88, 3, 20, 20)
        assert float((views.images[:, 0] - views.images[:, 1]).abs().mean()) > 0.02

    def test_the_global_generator_is_left_alone(self):
        torch.manual_seed(0)
        expected = torch.rand(3)
        torch.manual_seed(0)
        render(1, size=8, fraction=0.1)
        assert torch.equal(torch.rand(3), expected)

    def test_vehicles_leave_no_holes(self):
        # Without noise the background is a ramp, so that a hole would differ from its neighbours
        # on all sides by much. What is left are thin parts and edges.
        views = render(1, size=32, fraction=0.2, seed=3)
        images = views.images[:, 0]
        around = torch.stack([images.roll(s, d) for s in (-1, 1) for d in (1, 2)])
        alone = ((images - around.mean(dim=0)).abs() > 0.3) & (around.std(dim=0) < 0.05)
        assert float(alone[:, 1:-1, 1:-1].float().mean()) < 1e-3

    @pytest.mark.parametrize(
        "options", [{"per_view": 0}, {"per_view": 1, "size": 4}, {"per_view": 1, "channels": 2}]
    )
    def test_arguments(self, options):
        with pytest.raises(ConfigError, match="give|at least"):
            render(**options)


def pixels(experience):
    return torch.stack([experience.dataset[i][0] for i in range(len(experience.dataset))])


SMALL = {"n_train": 1, "n_test": 1, "size": 16, "fraction": 0.3}


class TestTurntable:
    def test_two_tasks_over_the_same_images(self):
        benchmark = turntable(**SMALL)
        names, classes = ("categories", "viewpoints"), (10, 88)
        for stream in (benchmark.train_stream, benchmark.test_stream):
            assert tuple(e.task_name for e in stream) == names
            assert [e.task_labels for e in stream] == [[0], [1]]
            assert tuple(len(e.classes_in_this_experience) for e in stream) == classes
            assert torch.equal(pixels(stream[0]), pixels(stream[1]))
        assert benchmark.n_classes == 88
        assert benchmark.input_shape == (1, 16, 16)
        assert not torch.equal(
            pixels(benchmark.train_stream[0])[:50], pixels(benchmark.test_stream[0])[:50]
        )

    def test_the_other_order_keeps_the_task_labels(self):
        benchmark = turntable(order="viewpoint-category", **SMALL)
        assert [e.task_name for e in benchmark.train_stream] == ["viewpoints", "categories"]
        assert [e.task_labels for e in benchmark.test_stream] == [[1], [0]]

    def test_one_head(self):
        benchmark = turntable(task_labels=False, **SMALL)
        classes = [set(e.classes_in_this_experience) for e in benchmark.train_stream]
        assert classes == [set(range(10)), set(range(10, 98))]
        assert [e.task_labels for e in benchmark.train_stream] == [[0], [0]]
        assert benchmark.n_classes == 98

    def test_no_test_image_of_one_seed_is_a_training_image_of_the_next(self):
        options = {"size": 8, "fraction": 0.1, "n_train": 1, "n_test": 1}
        seen = {}
        for seed in range(3):
            benchmark = turntable(seed=seed, **options)
            for part in ("train_stream", "test_stream"):
                key = pixels(getattr(benchmark, part)[0]).numpy().tobytes()
                assert key not in seen, (seed, part, seen.get(key))
                seen[key] = (seed, part)

    def test_sizes(self):
        benchmark = make_stream("turntable", fraction=0.1)
        # Of 80 and of 20 images of each viewpoint.
        assert [len(e.dataset) for e in benchmark.train_stream] == [8 * 88] * 2
        assert [len(e.dataset) for e in benchmark.test_stream] == [2 * 88] * 2

    def test_wrong_options_are_named(self, tmp_path):
        with pytest.raises(ConfigError, match="order='both' is not known; use one of"):
            turntable(order="both")
        with pytest.raises(ConfigError, match="fraction=2"):
            turntable(fraction=2)
        with pytest.raises(DataError, match="no photographs"):
            turntable(ilab_root=tmp_path)


class TestDomains:
    def test_viewpoints_then_digits(self):
        benchmark = turntable_domains(n_train=1, n_test=1, size=16)
        for stream in (benchmark.train_stream, benchmark.test_stream):
            assert [e.task_name for e in stream] == ["viewpoints", "sklearn-digits"]
            assert [e.task_labels for e in stream] == [[1], [2]]
            assert [len(e.classes_in_this_experience) for e in stream] == [88, 10]
            assert pixels(stream[1]).shape[1:] == (1, 16, 16)
        digits = sum(len(s[1].dataset) for s in (benchmark.train_stream, benchmark.test_stream))
        assert digits == len(load_digits().target)

    def test_digits_are_enlarged_not_changed(self):
        benchmark = turntable_domains(n_train=1, n_test=1, size=32, fraction=0.1)
        small = F.avg_pool2d(pixels(benchmark.test_stream[1]), 4)
        # Between the pixels x and y, an image four times as large has x (1 - d) + y d for d of 1/8,
        # 3/8, 5/8 and 7/8: the mean over the place of a pixel is 3/4 of it and 1/8 of either side.
        known = np.pad(load_digits().images / 16, ((0, 0), (1, 1), (1, 1)), mode="edge")
        known = 0.75 * known[:, 1:-1] + 0.125 * (known[:, :-2] + known[:, 2:])
        known = 0.75 * known[:, :, 1:-1] + 0.125 * (known[:, :, :-2] + known[:, :, 2:])
        distances = torch.cdist(small.flatten(1), torch.from_numpy(known).float().flatten(1))
        assert float(distances.min(dim=1).values.max()) < 2e-3
        assert float(distances.median()) > 1

    def test_categories_and_viewpoints_at_once(self):
        benchmark = turntable_domains(categories=True, n_train=1, n_test=1, size=8, fraction=0.2)
        first, second = benchmark.train_stream
        assert sorted(first.task_labels) == [0, 1]
        assert [e.task_name for e in benchmark.test_stream] == [
            "viewpoints",
            "sklearn-digits",
            "categories",
        ]
        samples = [first.dataset[i] for i in range(len(first.dataset))]
        half = len(samples) // 2
        assert {s[2] for s in samples[:half]} == {1}
        assert {s[2] for s in samples[half:]} == {0}
        assert all(s[1] < 10 for s in samples[half:])
        assert torch.equal(samples[0][0], samples[half][0])
        assert second.task_labels == [2]

    def test_one_head(self):
        benchmark = turntable_domains(
            categories=True, task_labels=False, n_train=1, n_test=1, size=8, fraction=0.2
        )
        classes = [set(e.classes_in_this_experience) for e in benchmark.test_stream]
        assert classes == [set(range(10, 98)), set(range(98, 108)), set(range(10))]
        assert benchmark.n_classes == 108
        plain = turntable_domains(task_labels=False, n_train=1, n_test=1, size=8, fraction=0.2)
        classes = [set(e.classes_in_this_experience) for e in plain.train_stream]
        assert classes == [set(range(88)), set(range(88, 98))]

    def test_coloured_domain(self, monkeypatch):
        from avalanche_dgm.streams import sources as module
        from avalanche_dgm.streams.tensors import LabelledImages

        def load(name, root, *, download):
            assert (name, root, download) == ("CIFAR100", "somewhere", False)
            labels = torch.arange(200) % 100
            images = torch.zeros(200, 3, 10, 10)
            images[:, 0] = 0.5
            return LabelledImages(images, labels), LabelledImages(images[:100], labels[:100])

        monkeypatch.setattr(module, "load_torchvision", load)
        options = {"domain": "CIFAR100", "n_train": 1, "n_test": 1, "size": 8, "fraction": 0.1}
        benchmark = make_stream("turntable-domains", "somewhere", **options)
        assert benchmark.n_classes == 100
        for experience in benchmark.train_stream:
            assert pixels(experience).shape[1:] == (3, 8, 8)
        torch.testing.assert_close(
            pixels(benchmark.train_stream[1])[0, :, 4, 4], torch.tensor([0.5, 0, 0])
        )
        grey = make_stream("turntable-domains", "somewhere", channels=1, **options)
        images = pixels(grey.train_stream[1])
        torch.testing.assert_close(images, torch.full_like(images, 0.5 * 0.299))
        few = turntable_domains("somewhere", n_train_per_class=1, **{**options, "fraction": 1.0})
        assert len(few.train_stream[1].dataset) == 100

    def test_a_pair_as_second_domain(self):
        pair = [(torch.full((1, 8, 8), 0.25 * (i % 3)), i % 3) for i in range(9)]
        benchmark = turntable_domains(domain=(pair, pair), n_train=1, n_test=1, size=8)
        assert [e.task_name for e in benchmark.test_stream] == ["viewpoints", "second domain"]
        image, label, task = benchmark.test_stream[1].dataset[2]
        assert (label, task) == (2, 2)
        assert torch.equal(image, torch.full((1, 8, 8), 0.5))

    def test_registry(self):
        benchmark = make_stream("turntable-domains", n_train=1, n_test=1, fraction=0.1)
        spec = STREAMS["turntable-domains"]
        assert len(benchmark.train_stream) == spec.n_experiences
        assert benchmark.n_classes == spec.n_classes
        assert benchmark.input_shape == spec.input_shape

    def test_wrong_options_are_named(self, tmp_path):
        with pytest.raises(ConfigError, match="'ImageNet' is not a known data set"):
            turntable_domains(domain="ImageNet")
        with pytest.raises(DataError, match="MNIST cannot be read"):
            turntable_domains(tmp_path, domain="MNIST")
        with pytest.raises(ConfigError, match="at least 1"):
            turntable_domains(n_train=0)


@pytest.mark.slow
def test_both_tasks_can_be_learned_and_forgotten():
    """Fig. 2b in small: each task alone is learned, and the other one is wiped by it."""
    from avalanche_dgm.models import AlexNetLike

    torch.manual_seed(0)
    train, test = render(4, seed=0), render(1, seed=1)
    model = AlexNetLike(
        (1, 32, 32), {0: 10, 1: 88}, channels=(16, 32, 48, 48, 48), hidden=128, dropout=0.0
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    def learn(task, labels, epochs):
        model.train()
        for _ in range(epochs):
            for batch in torch.randperm(len(train)).split(64):
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(model(train.images[batch], task), labels[batch]).backward()
                optimizer.step()

    @torch.no_grad()
    def accuracies():
        model.eval()
        return [
            float((model(test.images, task).argmax(dim=1) == labels).float().mean())
            for task, labels in ((0, test.categories), (1, test.viewpoints))
        ]

    learn(1, train.viewpoints, 6)
    _, viewpoint = accuracies()
    learn(0, train.categories, 4)
    category, forgotten = accuracies()
    assert viewpoint > 0.5  # chance is 0.011
    assert category > 0.4
    assert forgotten < 0.1
