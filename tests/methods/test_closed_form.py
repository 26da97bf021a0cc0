"""Classifiers in closed form: each against another implementation, and exact in any order."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from avalanche.models.dynamic_modules import avalanche_model_adaptation
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive, StreamingLDA
from driver import Driver, MultiHead, digits, network
from nets import Growing
from pickled_tensors import tensors_in
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestCentroid
from torch import nn

from avalanche_dgm import load_memory, save_memory, sklearn_digits
from avalanche_dgm.data import MASKED_LOGIT, ExperienceData
from avalanche_dgm.errors import ConfigError, RangeError, ShapeError
from avalanche_dgm.memories.class_moments import ClassMoments
from avalanche_dgm.methods import NCM, SLDA, RanPAC, closed_form
from avalanche_dgm.methods.ranpac import RIDGES
from avalanche_dgm.plugins import plugin_of

KINDS = {"ncm": (NCM, {}), "slda": (SLDA, {}), "ranpac": (RanPAC, {"projections": 100})}
#: Class 1 returns, with samples that it did not have before.
STREAM = [
    digits(0, 1, per_class=30),
    digits(2, 3, per_class=40),
    digits(1, 4, per_class=25, skip=30),
]
TEST = digits(*range(5), skip=100, per_class=60)
HELD = {"ncm": 0.8, "slda": 0.9, "ranpac": 0.9}


def flat(data):
    return ExperienceData(data.images.flatten(1), data.labels, data.tasks, data.key, data.name)


def joined(stream):
    return ExperienceData.cat(stream)


def driver_of(name, learner=None, *, task_aware=False, **changes):
    kind, hyper = KINDS[name]
    changes = {"layer": "2", **changes} if learner is None else changes
    method = kind(seed=1, **{**hyper, **changes})
    return Driver(method, learner or network(), task_aware=task_aware)


def answers(driver, data=TEST):
    return driver.predict(data.images, data.tasks)


@pytest.fixture(params=KINDS)
def name(request):
    return request.param


def test_moments_are_those_of_all_samples_at_once():
    torch.manual_seed(0)
    vectors = torch.randn(300, 7, dtype=torch.float64) + 50
    labels = torch.randint(4, (300,))
    vectors[labels == 2] *= 3
    moments = ClassMoments(scatter=True)
    for part in (slice(0, 90), slice(90, 91), slice(91, 300)):
        chunks = vectors[part].split(40)
        moments.add(chunks, torch.zeros_like(labels[part]), labels[part])
    order = moments.classes.labels
    assert sorted(order.tolist()) == [0, 1, 2, 3]
    assert moments.counts.tolist() == [int((labels == c).sum()) for c in order]
    means = torch.stack([vectors[labels == c].mean(dim=0) for c in order])
    torch.testing.assert_close(moments.means.double(), means, rtol=1e-6, atol=0)
    parts = [vectors[labels == c].numpy() for c in order]
    scatter = sum(len(part) * np.cov(part, rowvar=False, bias=True) for part in parts)
    found = moments.scatter()
    np.testing.assert_allclose(found, scatter, rtol=1e-5, atol=1e-3)
    assert torch.equal(found, found.T)
    np.testing.assert_allclose(moments.gram(), (vectors.T @ vectors).numpy(), rtol=1e-6)


def test_without_scatter_none_is_kept():
    moments = ClassMoments(scatter=False)
    moments.add([torch.randn(9, 5)], torch.zeros(9).long(), torch.arange(9) % 3)
    assert moments.packed.numel() == 0
    assert not moments.scatter().any()


def test_the_order_of_experiences_and_returning_classes_do_not_matter(name):
    fixed = {"ridge": 1.0} if name == "ranpac" else {}
    expected = answers(driver_of(name, **fixed).train(joined(STREAM)))
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        driver = driver_of(name, **fixed)
        for i in order:
            driver.train(STREAM[i])
        # Rounding is as large as the posterior is sharp.
        torch.testing.assert_close(answers(driver), expected, rtol=1e-2, atol=2e-2)
    once = driver_of(name, **fixed).train(STREAM[0]).train(STREAM[1])
    assert (answers(once) - expected).abs().max() > 1


def test_all_is_remembered_and_nothing_of_the_network_moves(name):
    learner = nn.Sequential(
        nn.Flatten(1), nn.BatchNorm1d(64), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10)
    )
    before = copy.deepcopy(learner.state_dict())
    kind, hyper = KINDS[name]
    plugin = plugin_of(kind)(seed=0, layer="3", **hyper)
    benchmark = sklearn_digits(n_experiences=5, n_train_per_class=100)
    strategy = Naive(
        model=learner,
        optimizer=torch.optim.SGD(learner.parameters(), lr=0.1),
        train_epochs=3,
        evaluator=EvaluationPlugin(loggers=[]),
        plugins=[plugin],
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)
    assert strategy.clock.train_iterations == 0, "no step is wasted"
    after = plugin.finish(strategy).state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    test = digits(*range(10), skip=100, per_class=60)
    learner.eval()
    right = plugin.method.predict(test.images, test.tasks).argmax(dim=1) == test.labels
    assert right[test.labels < 2].float().mean() > HELD[name], "the first classes"
    assert right.float().mean() > HELD[name] - 0.05
    untrained = learner(test.images).argmax(dim=1) == test.labels
    assert untrained.float().mean() < 0.3


# Each against another implementation


def of_vectors(name, **changes):
    driver = driver_of(name, nn.Linear(64, 10), **changes)
    for data in STREAM:
        driver.train(flat(data))
    return driver


def test_ncm_is_the_nearest_centroid():
    data, test = flat(joined(STREAM)), flat(TEST)
    other = NearestCentroid().fit(data.images.numpy(), data.labels.numpy())
    found = answers(of_vectors("ncm"), test).argmax(dim=1)
    assert found.tolist() == other.predict(test.images.numpy()).tolist()


class _Shrunk:
    """What scikit-learn's discriminant analysis is given as the covariance of each class."""

    def fit(self, x):
        eye = np.eye(x.shape[1])
        self.covariance_ = 0.9 * np.cov(x, rowvar=False, bias=True) + 0.1 * eye
        return self


def test_slda_is_linear_discriminant_analysis():
    # As many of each class, as streaming LDA takes them for equally likely.
    stream = [digits(0, 1, per_class=50), digits(2, per_class=50), digits(3, 4, per_class=50)]
    data, test = flat(joined(stream)), flat(TEST)
    other = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=_Shrunk())
    other.fit(data.images.double().numpy(), data.labels.numpy())
    driver = driver_of("slda", nn.Linear(64, 10), shrinkage=0.1)
    for part in stream:
        driver.train(flat(part))
    found = answers(driver, test)[:, :5].double()
    expected = other.predict_log_proba(test.images.double().numpy())
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_slda_agrees_with_avalanche():
    driver, test = of_vectors("slda"), flat(TEST)
    moments = driver.method.moments
    theirs = StreamingLDA(
        slda_model=nn.Identity(),
        criterion=nn.CrossEntropyLoss(),
        input_size=64,
        num_classes=10,
        evaluator=EvaluationPlugin(loggers=[]),
    )
    # Sample by sample: its covariance depends on their order, and on zero as the first mean.
    data = flat(joined(STREAM))
    for i in torch.randperm(len(data), generator=torch.Generator().manual_seed(0)):
        theirs.fit(data.images[i][None], data.labels[i][None])
    learned = torch.arange(5)
    mine = answers(driver, test).argmax(dim=1)
    other = theirs.predict(test.images)[:, learned].argmax(dim=1)
    assert (mine == other).float().mean() > 0.98
    assert abs((mine == test.labels).float().mean() - (other == test.labels).float().mean()) < 0.01
    # With the same moments, the same answers.
    theirs.muK[moments.classes.labels] = moments.means
    theirs.Sigma = (moments.scatter() / len(data)).float()
    theirs.prev_num_updates = -1
    expected = theirs.predict(test.images)[:, learned].log_softmax(dim=1)
    torch.testing.assert_close(answers(driver, test)[:, :5], expected, rtol=1e-3, atol=0.05)


def test_ranpac_is_ridge_regression_on_random_features():
    driver = of_vectors("ranpac", ridge=2.0)
    data, test = flat(joined(STREAM)), flat(TEST)
    weight = driver.method.lifting.weight.double()
    inputs, shown = (torch.relu(x.images.double() @ weight).numpy() for x in (data, test))
    strength = 2.0 * np.square(inputs).mean()
    other = Ridge(alpha=strength, fit_intercept=False, solver="cholesky")
    other.fit(inputs, np.eye(5)[data.labels])
    scores = torch.from_numpy(other.predict(shown)).log_softmax(dim=1)
    torch.testing.assert_close(answers(driver, test)[:, :5].double(), scores, rtol=1e-4, atol=1e-4)


def test_ranpac_chooses_its_ridge_by_samples_that_are_not_learned():
    """With as many projections as samples, hardly any ridge fits best, and predicts worst."""
    chosen = of_vectors("ranpac", projections=130)
    ridge = float(chosen.method.ridge)
    assert ridge in RIDGES
    assert min(RIDGES) < ridge < max(RIDGES)
    test = flat(TEST)

    def accuracy(**changes):
        return of_vectors("ranpac", projections=130, **changes).accuracy(test)

    assert chosen.accuracy(test) >= max(accuracy(ridge=r) for r in (RIDGES[0], RIDGES[-1]))
    # The same statistics: what was held out is learned, too.
    fixed = of_vectors("ranpac", projections=130, ridge=ridge)
    assert chosen.method.moments.counts.sum() == fixed.method.moments.counts.sum() == 190


def test_samples_too_few_to_hold_some_out_are_learned():
    driver = driver_of("ranpac").train(digits(0, 1, per_class=1)).train(digits(2, per_class=3))
    assert driver.method.moments.counts.tolist() == [1, 1, 3]
    assert torch.isfinite(answers(driver)).all()


# Models


def test_heads_answer_their_task_s_classes_only(name):
    learner = MultiHead(3, 3)
    learner.body, learner.heads = nn.Flatten(1), nn.ModuleList(nn.Linear(64, 3) for _ in range(3))
    driver = driver_of(name, learner, task_aware=True, layer="body")
    for task, classes in enumerate([(0, 1), (2, 1), (0, 2)]):
        data = digits(*classes, per_class=40, task=task)
        driver.train(data)
    for task, classes in enumerate([(0, 1), (2, 1), (0, 2)]):
        data = digits(*classes, skip=100, per_class=40, task=task)
        logits = driver.predict(data.images, data.tasks)
        assert logits.shape == (80, 3)
        (other,) = {0, 1, 2} - set(classes)
        assert (logits[:, other] == MASKED_LOGIT).all()
        torch.testing.assert_close(logits.exp().sum(dim=1), torch.ones(80))
        assert driver.accuracy(data) > HELD[name] - 0.15
    unknown = torch.full((4,), 7 % 3)
    assert torch.isfinite(driver.predict(TEST.images[:4], unknown)).all()


def test_task_labels_mean_nothing_to_a_model_without_heads(name):
    one, two = driver_of(name), driver_of(name)
    for i, data in enumerate(STREAM):
        one.train(data)
        two.train(replace(data, tasks=data.tasks + i))
    assert torch.equal(answers(one), answers(two))


def adapt(learner, classes):
    avalanche_model_adaptation(learner, SimpleNamespace(classes_in_this_experience=classes))


def test_a_growing_classifier_s_width(name):
    learner = Growing()
    adapt(learner, [0, 1])
    driver = driver_of(name, learner, layer="features").train(STREAM[0])
    logits = answers(driver)
    assert logits.shape[1] == 2
    adapt(learner, [6])
    wide = answers(driver)
    assert torch.equal(wide[:, :2], logits)
    assert wide.shape[1] == 7
    assert (wide[:, 2:] == MASKED_LOGIT).all()


def test_scores_of_any_size_stay_above_those_of_unknown_classes(name):
    driver = driver_of(name, nn.Linear(64, 10))
    data = flat(digits(0, 1))
    driver.train(ExperienceData(1e4 * data.images, data.labels, data.tasks, "a", "a"))
    logits = driver.predict(1e4 * data.images, data.tasks)
    assert logits[:, :2].min() > MASKED_LOGIT
    assert (logits.argmax(dim=1) == data.labels).float().mean() > 0.95


# State


def test_state_and_file_continue_the_same(name, tmp_path):
    driver = driver_of(name).train(STREAM[0]).train(STREAM[1])
    fresh = driver_of(name)
    fresh.method.attach(fresh.learner, task_aware=False)
    fresh.method.load_state_dict(driver.method.state_dict())
    assert torch.equal(answers(fresh), answers(driver))
    save_memory(driver.method, tmp_path / "memory")
    loaded = driver_of(name)
    load_memory(loaded.method, tmp_path / "memory", model=loaded.learner)
    assert torch.equal(answers(loaded), answers(driver))
    # Also if it has answered already.
    copied = copy.deepcopy(driver)
    for each in (driver, fresh, copied):
        each.train(STREAM[2])
    assert torch.equal(answers(fresh), answers(driver))
    assert torch.equal(answers(copied), answers(driver))


def test_a_pickle_with_the_former_name_of_the_split_network():
    driver = driver_of("ncm").train(STREAM[0])
    state, loaded = driver.method.__getstate__(), NCM.__new__(NCM)
    state["_split"] = state.pop("split")
    loaded.__setstate__(state)
    assert torch.equal(loaded.predict(TEST.images, TEST.tasks), answers(driver))
    assert not hasattr(copy.deepcopy(loaded), "_split")


def test_pickles_find_ranpac_where_it_was():
    assert closed_form.RanPAC is RanPAC
    assert closed_form.RanPACSettings is RanPAC.settings_type


def test_an_experience_that_fails_is_taken_back(name):
    driver = driver_of(name).train(STREAM[0])
    before, state = answers(driver), copy.deepcopy(driver.method.state_dict())
    driver.method.begin(STREAM[1])
    features = driver.method.features(STREAM[1].images, STREAM[1].tasks)
    driver.method._learn(features, STREAM[1].tasks, STREAM[1].labels)
    driver.method._linear = None
    assert not torch.equal(answers(driver), before)
    driver.method.undo()
    assert torch.equal(answers(driver), before)
    after = driver.method.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in state.items() if torch.is_tensor(v))


def test_bytes(name):
    """All that is kept, by another count: half of each product, as these are symmetric."""
    driver = driver_of(name)
    for data in STREAM:
        driver.train(data)
    answers(driver)
    own = {t.data_ptr() for t in driver.learner.state_dict().values()}
    kept = sum(t.nbytes for t in tensors_in(driver.method) if t.data_ptr() not in own)
    assert driver.method.held_bytes() == kept
    k, d, m = 5, 32, 100
    table = k * (3 * 8 + 8)
    expected = {
        "ncm": 4 * k * d,
        "slda": 4 * (k * d + d * (d + 1) // 2),
        "ranpac": 4 * (k * m + m * (m + 1) // 2 + d * m) + 8,
    }
    assert kept == expected[name] + table


# Errors


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (SLDA, {"shrinkage": 0}, "shrinkage=0 must be above 0"),
        (SLDA, {"shrinkage": 2.0}, "shrinkage=2.0 must be above 0"),
        (RanPAC, {"projections": 0}, "projections=0 must be a whole number"),
        (RanPAC, {"projections": 2**15}, "at most 16384"),
        (RanPAC, {"ridge": -1.0}, "ridge=-1.0 must be a number above 0"),
        (RanPAC, {"held_out": 1.0}, "held_out=1.0 must be above 0 and below 1"),
    ],
)
def test_settings(kind, changes, message):
    with pytest.raises(ConfigError, match=message):
        kind(**changes)


def test_a_layer_that_is_not_there(name):
    with pytest.raises(ConfigError, match="no layer 'trunk'"):
        driver_of(name, layer="trunk").train(STREAM[0])


def test_features_whose_products_are_too_many():
    learner = nn.Sequential(nn.Conv2d(1, 300, 1), nn.Flatten(), nn.Linear(300 * 64, 10))
    with pytest.raises(ConfigError, match=r"0.7 GB for 19200 dimensions.*layer=<name>"):
        driver_of("slda", learner, layer="0").train(STREAM[0])
    driver_of("ncm", learner, layer="0").train(STREAM[0])


def test_features_of_another_size(name):
    driver = driver_of(name, nn.Linear(64, 10)).train(flat(STREAM[0]))
    with pytest.raises(ShapeError):
        driver.method.check(STREAM[1])
    driver.method.attach(nn.Linear(32, 10), task_aware=False)
    driver.method._shape = None
    narrow = flat(STREAM[1])
    narrow = replace(narrow, images=narrow.images[:, :32])
    with pytest.raises(ShapeError, match="64 were learned"):
        driver.method.check(narrow)


def test_a_network_that_answers_nan(name):
    learner = network()
    nn.init.constant_(learner[1].weight, float("nan"))
    driver = driver_of(name, learner, layer="2")
    with pytest.raises(RangeError, match="NaN"):
        driver.train(STREAM[0])
    assert driver.method.experiences == 0
    assert not len(driver.method.moments.classes)
