"""Elastic weight consolidation: what Kirkpatrick et al. 2017 say it does."""

import copy

import pytest
import torch
import torch.nn.functional as F
from driver import Driver, MultiHead, digits, network
from torch import nn

from avalanche_dgm.data import ExperienceData, Step
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.methods import ElasticWeightConsolidation
from avalanche_dgm.metrics.cost import memory_bytes_of


def attached(net, *, task_aware=False, **changes):
    method = ElasticWeightConsolidation(seed=0, **changes)
    method.attach(net, task_aware=task_aware)
    return method


def penalty_of(method, n=1):
    nothing = torch.empty(0, 1, 8, 8), torch.empty(0, dtype=torch.int64)
    return method.loss(Step(*nothing, torch.empty(0, 10), torch.tensor(1.0), n))


def softmax_regression():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(1), nn.Linear(64, 4))


def repeated(data, times):
    return ExperienceData.cat([data] * times)


def test_the_true_information_is_that_of_a_softmax_regression():
    """In closed form: p (1 - p) x^2, the mean over samples; bias: x = 1."""
    net, data = softmax_regression(), digits(0, 1, 2, 3, per_class=4)
    found = attached(net).fisher(repeated(data, 3000))
    x = data.images.flatten(1)
    p = net(data.images).softmax(dim=1).detach()
    wanted = (p * (1 - p))[:, :, None] * x[:, None].square()
    # A draw for each of 48,000.
    torch.testing.assert_close(found["1.weight"], wanted.mean(dim=0), rtol=0.06, atol=2e-4)
    torch.testing.assert_close(found["1.bias"], (p * (1 - p)).mean(dim=0), rtol=0.03, atol=0)


def test_the_empirical_information_is_of_the_data_s_labels():
    net, data = softmax_regression(), digits(0, 1, 2, 3, per_class=10)
    found = attached(net, fisher="empirical").fisher(data)
    p, y = net(data.images).softmax(dim=1).detach(), F.one_hot(data.labels, 4)
    wanted = ((p - y).square()[:, :, None] * data.images.flatten(1)[:, None].square()).mean(dim=0)
    torch.testing.assert_close(found["1.weight"], wanted)


def test_answers_may_be_probabilities():
    net, data = softmax_regression(), digits(0, 1, per_class=10)
    wanted = attached(net, fisher="empirical").fisher(data)
    answering = nn.Sequential(*net, nn.Softmax(dim=1))
    method = attached(answering, fisher="empirical")

    def likelihood(answers, labels):
        return F.nll_loss(answers.log(), labels)

    method.criterion.set(likelihood, answering, width=4, classes=[0, 1])
    torch.testing.assert_close(method.fisher(data)["1.weight"], wanted["1.weight"])


def test_each_head_is_asked_about_its_own_tasks():
    net = MultiHead(2, 10)
    data = ExperienceData.cat([digits(0, 1, per_class=6), digits(2, 3, per_class=6, task=1)])
    found = attached(net, task_aware=True, fisher="empirical").fisher(data)
    for name, p in net.named_parameters():
        total = torch.zeros_like(p)
        for image, label, task in zip(data.images, data.labels, data.tasks, strict=True):
            net.zero_grad()
            F.cross_entropy(net(image[None], task[None]), label[None]).backward()
            total += p.grad.square()
        torch.testing.assert_close(found[name], total / len(data), msg=name)


def test_it_is_estimated_from_as_many_samples_as_asked_for():
    net, data = softmax_regression(), digits(0, 1, per_class=30)
    method = attached(net, fisher_samples=5, fisher="empirical")
    state = method.random.get_state()
    found = method.fisher(data)
    method.random.set_state(state)
    taken = data.take(torch.randperm(60, generator=method.rng)[:5])
    wanted = attached(net, fisher="empirical").fisher(taken)
    torch.testing.assert_close(found["1.bias"], wanted["1.bias"])


def test_the_penalty_has_a_half_and_the_size_of_the_criterion():
    driver = Driver(ElasticWeightConsolidation(seed=0, ewc_lambda=6.0), network(), steps=8)
    method = driver.method
    assert penalty_of(method) is None
    driver.train(digits(0, 1))
    assert float(penalty_of(method)) == 0
    method.attach(driver.learner, task_aware=False)
    with torch.no_grad():
        for p in driver.learner.parameters():
            p.add_(0.5)
    wanted = 6.0 / 2 * 0.25 * method.penalty.importance.sum()
    torch.testing.assert_close(penalty_of(method, 7), wanted)
    summed = nn.CrossEntropyLoss(reduction="sum")
    method.criterion.set(summed, driver.learner, width=10, classes=[0, 1])
    torch.testing.assert_close(penalty_of(method, 7), 7 * wanted)


def way(driver):
    """How far the next experience leads from where the weights were, as the first rates it."""
    penalty = copy.deepcopy(driver.method.penalty)
    driver.train(digits(2, 3))
    return float(penalty(driver.learner))


def test_old_tasks_are_held():
    free, held = (
        Driver(ElasticWeightConsolidation(seed=0, ewc_lambda=weight), network(), steps=60)
        for weight in (0.0, 1e4)
    )
    for driver in (free, held):
        driver.train(digits(0, 1))
    assert way(held) < 0.1 * way(free)
    assert held.accuracy(digits(0, 1)) > free.accuracy(digits(0, 1)) + 0.3


def test_bytes_do_not_grow_with_experiences():
    driver = Driver(ElasticWeightConsolidation(seed=0), network(), steps=3)
    weights = sum(p.numel() for p in driver.learner.parameters())
    for i in range(3):
        driver.train(digits(2 * i, 2 * i + 1))
        # Importances and anchors, and the constant.
        assert memory_bytes_of(driver.method) == 4 * (2 * weights + 1)


def test_a_state_goes_on_equally():
    torch.manual_seed(0)
    driver = Driver(ElasticWeightConsolidation(seed=0), network(), steps=5)
    driver.train(digits(0, 1)).train(digits(2, 3))
    fresh = Driver(ElasticWeightConsolidation(seed=9), network(seed=3), steps=5)
    fresh.method.attach(fresh.learner, task_aware=False)
    fresh.method.load_state_dict(driver.method.state_dict())
    for each in (driver, fresh):
        each.train(digits(4, 5))
    mine, theirs = (d.method.state_dict() for d in (driver, fresh))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(v, theirs[k]) for k, v in mine.items() if torch.is_tensor(v))


def test_what_cannot_work():
    for weight in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="ewc_lambda"):
            ElasticWeightConsolidation(ewc_lambda=weight)
    with pytest.raises(ConfigError, match="fisher"):
        ElasticWeightConsolidation(fisher="sampled")
    driver = Driver(ElasticWeightConsolidation(seed=0), network(), steps=2).train(digits(0, 1))
    driver.learner = network(width=6)
    with pytest.raises(ConfigError, match="may not shrink"):
        driver.train(digits(2, 3))
