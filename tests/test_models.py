"""The papers' networks: shapes and numbers of parameters by closed formulas, and their heads."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from avalanche_dgm.data import MASKED_LOGIT
from avalanche_dgm.errors import ConfigError, ShapeError
from avalanche_dgm.models import (
    AlexNetLike,
    DeepLinear,
    LatentClassifier,
    LatentCompressor,
    MultiHead,
    latent_replay_network,
)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_the_compressor_of_the_paper():
    compressor = LatentCompressor()
    assert compressor(torch.rand(3, 1, 28, 28)).shape == (3, 1, 6, 6)
    assert compressor.latent_shape((1, 28, 28)) == (1, 6, 6)
    # Weights and biases of two convolutions, two numbers a channel of each BatchNorm.
    assert count(compressor) == (25 * 10 + 10) + 2 * 10 + (25 * 10 + 1) + 2


def test_the_classifier_of_the_paper():
    classifier = LatentClassifier()
    assert classifier(torch.rand(3, 1, 6, 6)).shape == (3, 10)
    convolutions = (9 * 50 + 50) + 5 * (9 * 50 * 50 + 50) + 6 * 2 * 50
    assert count(classifier) == convolutions + (1800 * 16 + 16) + 2 * 16 + (16 * 10 + 10)
    kinds = [type(layer).__name__ for layer in classifier]
    assert kinds[:18] == ["Conv2d", "BatchNorm2d", "ELU"] * 6
    assert kinds[18:] == ["Flatten", "Linear", "BatchNorm1d", "ELU", "Linear"]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (2, 20, 33), (3, 64, 64)])
def test_the_network_is_its_parts_for_any_size(shape):
    network = latent_replay_network(shape, 7, latent_channels=2).eval()
    images = torch.rand(4, *shape)
    latents = network.compressor(images)
    assert latents.shape[1:] == network.compressor.latent_shape(shape)
    assert torch.equal(network(images), network.classifier(latents))
    assert network(images).shape == (4, 7)
    assert latents[0, 0].numel() <= images[0, 0].numel() / 4


@pytest.mark.parametrize(
    ("padding", "pool", "side"), [(0, 3, 11), (0, 3, 29), (0, 2, 15), (1, 4, 17), (2, 2, 8)]
)
def test_latent_shape_is_what_comes_out(padding, pool, side):
    compressor = LatentCompressor(padding=padding, pool=pool)
    shape = compressor(torch.rand(1, 1, side, side + 5)).shape[1:]
    assert compressor.latent_shape((1, side, side + 5)) == shape


def test_logits_are_not_normalised_and_the_loss_is_the_paper_s():
    network = latent_replay_network().eval()
    logits, labels = network(torch.rand(5, 1, 28, 28)), torch.arange(5)
    assert not torch.allclose(logits.exp().sum(dim=1), torch.ones(5))
    paper = F.nll_loss(F.log_softmax(logits, dim=1), labels)
    torch.testing.assert_close(nn.CrossEntropyLoss()(logits, labels), paper)


def test_the_papers_network_learns():
    torch.manual_seed(0)
    network = latent_replay_network((1, 12, 12), 2)
    labels = torch.arange(64) % 2
    images = torch.rand(64, 1, 12, 12) + labels.view(-1, 1, 1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    before = F.cross_entropy(network(images), labels).item()
    for _ in range(10):
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
    assert F.cross_entropy(network(images), labels).item() < 0.2 < before


def test_images_that_are_too_small_are_refused():
    with pytest.raises(ShapeError, match="11 pixels"):
        LatentCompressor().latent_shape((1, 10, 28))
    with pytest.raises(ShapeError, match="too small"):
        latent_replay_network((1, 8, 8), padding=0)
    with pytest.raises(ShapeError, match=r"\(C, H, W\)"):
        latent_replay_network((784,))
    with pytest.raises(ShapeError, match="8 pixels"):
        AlexNetLike((1, 7, 9))


class TestAlexNetLike:
    def test_small(self):
        model = AlexNetLike((1, 32, 32), 10)
        assert model(torch.rand(2, 1, 32, 32)).shape == (2, 10)
        channels = (1, 32, 64, 96, 96, 64)
        expected = sum(9 * channels[i] * channels[i + 1] + channels[i + 1] for i in range(5))
        # Three pools halve 32 to 4.
        expected += (64 * 16 * 256 + 256) + (256 * 256 + 256) + (256 * 10 + 10)
        assert count(model) == expected

    def test_large(self):
        model = AlexNetLike((3, 227, 227), 1000, channels=(2, 3, 4, 5, 6), hidden=8)
        assert model(torch.rand(1, 3, 227, 227)).shape == (1, 1000)
        # (227 + 2 * 5 - 11) / 4 + 1 = 57 -> 28 -> 13 -> 6.
        first = model.dense[2]
        assert first.in_features == 6 * 6 * 6
        assert [c.kernel_size[0] for c in model.features if isinstance(c, nn.Conv2d)] == [
            *(11, 5),
            *(3, 3, 3),
        ]
        default = AlexNetLike((3, 64, 64), 1000)
        assert default.features[0].out_channels == 96
        assert default.heads.heads["0"].in_features == 4096

    @pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 40), (3, 64, 100)])
    def test_any_size(self, shape):
        model = AlexNetLike(shape, 3, channels=(2, 2, 2, 2, 2), hidden=4)
        assert model(torch.rand(2, *shape)).shape == (2, 3)

    def test_dropout_is_the_only_randomness(self):
        model, images = AlexNetLike((1, 16, 16), 3), torch.rand(4, 1, 16, 16)
        assert not torch.equal(model(images), model(images))
        model.eval()
        assert torch.equal(model(images), model(images))
        still = AlexNetLike((1, 16, 16), 3, dropout=0.0)
        assert torch.equal(still(images), still(images))

    def test_heads_share_the_body(self):
        model = AlexNetLike((1, 16, 16), {0: 3, 1: 5}, dropout=0.0)
        images = torch.rand(6, 1, 16, 16)
        features = model.dense(model.features(images))
        head = model.heads.heads["0"]
        torch.testing.assert_close(model(images, 0)[:, :3], head(features))
        torch.testing.assert_close(model(images, torch.zeros(6, dtype=int))[:, :3], head(features))

    def test_arguments(self):
        with pytest.raises(ConfigError, match="five"):
            AlexNetLike((1, 16, 16), channels=(1, 2))
        with pytest.raises(ConfigError, match="one output"):
            AlexNetLike((1, 16, 16), {})


class TestMultiHead:
    tasks = torch.tensor([1, 0, 1, 4])

    def test_each_sample_is_answered_by_its_own_head(self):
        heads = MultiHead(6, {0: 2, 1: 5, 4: 3})
        features = torch.rand(4, 6)
        logits = heads(features, self.tasks)
        assert logits.shape == (4, 5)
        for row, task in enumerate(self.tasks.tolist()):
            head = heads.heads[str(task)]
            torch.testing.assert_close(logits[row, : head.out_features], head(features[row]))
            assert bool((logits[row, head.out_features :] == MASKED_LOGIT).all())

    def test_a_batch_of_one_task_is_as_wide_as_a_mixed_one(self):
        heads, features = MultiHead(6, {0: 2, 1: 5}), torch.rand(3, 6)
        for task in (0, 1):
            alike = heads(features, torch.full((3,), task))
            assert alike.shape == (3, 5)
            assert torch.equal(alike, heads(features, task))

    def test_absent_outputs_change_no_loss(self):
        heads, features = MultiHead(6, {0: 2, 1: 5}), torch.rand(3, 6)
        labels = torch.tensor([0, 1, 1])
        torch.testing.assert_close(
            F.cross_entropy(heads(features, 0), labels),
            F.cross_entropy(heads.heads["0"](features), labels),
        )

    def test_idle_heads_get_no_gradient(self):
        heads = MultiHead(6, {0: 2, 1: 5, 4: 3})
        F.cross_entropy(
            heads(torch.rand(2, 6), torch.tensor([0, 4])), torch.zeros(2).long()
        ).backward()
        assert heads.heads["1"].weight.grad is None
        assert all(heads.heads[t].weight.grad.abs().sum() > 0 for t in "04")

    def test_tasks_must_be_known(self):
        heads = MultiHead(6, {0: 2, 1: 5})
        with pytest.raises(ConfigError, match="give it task labels"):
            heads(torch.rand(2, 6))
        with pytest.raises(ConfigError, match="no head for the task 3; there are heads for 0, 1"):
            heads(torch.rand(2, 6), torch.tensor([0, 3]))
        assert MultiHead(6, {7: 2})(torch.rand(2, 6)).shape == (2, 2)


def test_deep_linear_networks_are_products_of_matrices():
    model = DeepLinear(5, 4, (3, 2))
    x = torch.rand(6, 5)
    first, second = model(x)
    torch.testing.assert_close(first, x @ (model.heads[0].weight @ model.hidden.weight).T)
    torch.testing.assert_close(second, x @ (model.heads[1].weight @ model.hidden.weight).T)
    assert count(model) == 5 * 4 + 4 * 3 + 4 * 2
    torch.manual_seed(0)
    wide = DeepLinear(200, 100, (50,), scale=0.3)
    assert wide.hidden.weight.std().item() == pytest.approx(0.3, rel=0.05)
