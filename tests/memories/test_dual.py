"""The dual memory: slots, what is known of an incoming task, and who answers."""

import copy
from dataclasses import replace

import pytest
import torch
from driver import Driver, MultiHead, digits, network
from torch import nn

from avalanche_dgm.data import ExperienceData
from avalanche_dgm.memories import DualMemory, DualMemorySettings
from avalanche_dgm.memories.dual import choose_memory
from avalanche_dgm.memories.short_term import MARGIN, TaskLearner, widen
from avalanche_dgm.methods import DGDMN
from avalanche_dgm.metrics.cost import memory_bytes_of

TINY = {
    "hidden": (32,),
    "latent": 8,
    "batch_size": 32,
    "generator_steps": 20,
    "learner_steps": 20,
    "stm_learner_hidden": (16,),
}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def dual_of(learner=None, *, task_aware=False, **settings):
    torch.manual_seed(0)
    dual = DualMemory(DualMemorySettings(**{**TINY, **settings}))
    dual.ltm.attach(learner or network(), task_aware=task_aware)
    dual.build(digits(0).images)
    return dual


def absorbed(memory, data):
    """Makes a memory know a task without training anything."""
    list(memory.learn([data], rng(), previous=None))
    memory.n_seen = len(data)
    return memory


def driver_of(learner=None, *, seed=1, task_aware=False, steps=20, **settings):
    torch.manual_seed(0)
    method = DGDMN(seed=seed, **{**TINY, **settings})
    return Driver(method, learner or network(), task_aware=task_aware, steps=steps)


def test_slots_open_find_and_close():
    dual = dual_of(stm_size=2)
    assert dual.find("0") is None
    assert (dual.occupancy, dual.full) == (0, False)
    first = dual.open(digits(0))
    assert dual.find("0") is first
    assert dual.open(digits(0)) is first
    assert (dual.occupancy, dual.full) == (1, False)
    second = dual.open(digits(1))
    assert second is not first
    assert dual.sttms() == [first, second]
    assert (dual.occupancy, dual.full) == (2, True)
    dual.close("0")
    assert dual.find("0") is None
    assert dual.sttms() == [second]
    third = dual.open(digits(5))
    assert sorted(dual.stm) == ["0", "1"]
    assert dual.find("5") is third
    assert third.classes == (5,)
    assert dual.knows("5")
    assert not dual.knows("0")


def test_more_than_ten_slots_are_in_numerical_order():
    dual = dual_of(stm_size=12, kappa=0.0)
    for i in range(12):
        dual.open(replace(digits(i % 10), key=f"task {i}"))
    assert [memory.key for memory in dual.sttms()] == [f"task {i}" for i in range(12)]


def test_short_term_memories_have_the_long_term_one_s_sizes_or_their_own():
    dual = dual_of()
    spec = dual.open(digits(0)).generator.network.spec
    assert (spec.hidden, spec.latent) == ((32,), 8)
    dual = dual_of(stm_hidden=(20, 24), stm_latent=3)
    assert dual.open(digits(0)).generator.network.spec.hidden == (20, 24)
    assert dual.find("0").generator.network.spec.latent == 3


def test_a_task_that_grew_begins_again_with_all_its_classes():
    dual = dual_of()
    absorbed(dual.open(digits(0, 1, key="t")), digits(0, 1, key="t"))
    again = dual.open(digits(1, 2, key="t"))
    assert again.classes == (0, 1, 2)
    assert dual.occupancy == 1


def test_nothing_is_known_of_a_new_task():
    dual = dual_of()
    dual.open(digits(0))
    assert dual.extra_samples(digits(0), rng()) is None
    assert dual.extra_samples(digits(1), rng()) is None


def test_a_repeated_task_is_replayed_for_each_time_it_was_met():
    dual, data = dual_of(), digits(0, 1, per_class=10)
    memory = absorbed(dual.open(data), data)
    extra = dual.extra_samples(data, rng())
    assert len(extra) == 20
    assert set(extra.labels.tolist()) == {0, 1}
    absorbed(memory, data)
    assert len(dual.extra_samples(data, rng())) == 40


@pytest.mark.parametrize("reconstruct", [True, False])
def test_a_repeated_task_s_replay_is_labelled_as_its_learner_sees_it(reconstruct):
    dual, data = dual_of(reconstruct=reconstruct, temperature=1.0), digits(0, 1)
    memory = absorbed(dual.open(data), data)
    extra = dual.extra_samples(data, rng())
    seen = memory.generator.reconstruct(extra.images) if reconstruct else extra.images
    torch.testing.assert_close(extra.targets, memory.learner(seen).softmax(dim=1))


@pytest.mark.parametrize("ltm_help", [True, False])
def test_the_ltm_reconstructs_and_labels_what_it_knows(ltm_help):
    dual, data = dual_of(ltm_help=ltm_help), digits(0, 1, 2, per_class=10, key="t")
    absorbed(dual.ltm, data)
    extra = dual.extra_samples(data, rng())
    if not ltm_help:
        assert extra is None
        return
    expected = dual.ltm.generator.reconstruct(data.images)
    assert torch.equal(extra.images, expected)
    assert torch.equal(extra.labels, dual.ltm.learner(expected)[:, :3].argmax(1))
    assert dual.extra_samples(digits(3), rng()) is None


def test_the_ltm_does_not_label_classes_that_are_new_to_the_task():
    """Neither does a head that is too narrow for them fail."""
    dual = dual_of(network(2))
    absorbed(dual.ltm, digits(0, 1, per_class=10, key="t"))
    extra = dual.extra_samples(digits(1, 7, per_class=10, key="t"), rng())
    assert len(extra) == 10
    assert set(extra.labels.tolist()) <= {0, 1}
    assert dual.extra_samples(digits(7, per_class=10, key="t"), rng()) is None


def test_labelling_leaves_the_ltm_s_statistics_alone():
    net = nn.Sequential(nn.Flatten(1), nn.BatchNorm1d(64), nn.Linear(64, 10))
    dual, data = dual_of(net.train()), digits(0)
    absorbed(dual.ltm, data)
    before = copy.deepcopy(net.state_dict())
    dual.extra_samples(data, rng())
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert net.training


@pytest.fixture(scope="module")
def routed():
    """Zero and one in the long-term memory, four and seven in short-term ones."""
    driver = driver_of(
        hidden=(64,),
        stm_hidden=(64,),
        generator_steps=400,
        learner_steps=400,
        steps=60,
        stm_size=2,
        batch_size=64,
    )
    for task in [(0, 1), (2, 3), (4, 5)]:
        driver.train(digits(*task, per_class=120))
    assert driver.method.dual.sleeps == 1
    assert [m.key for m in driver.method.dual.sttms()] == ["4,5"]
    return driver


def test_routing_by_elbo_finds_the_memory(routed):
    dual, members = routed.method.dual, [*routed.method.dual.sttms(), routed.method.dual.ltm]
    for task, expected in [((4, 5), 0), ((0, 1), 1), ((2, 3), 1)]:
        test = digits(*task, per_class=40, skip=120)
        chosen = choose_memory(members, test.images, test.tasks, by_task=False)
        assert (chosen == expected).float().mean() > 0.8
        assert routed.accuracy(test) > 0.75
        answers = dual.predict(test.images, test.tasks, key=None)
        assert answers.shape == (len(test), 10)
    # Each image is answered by the memory that was chosen for it.
    test = digits(*range(6), per_class=20, skip=120)
    chosen = choose_memory(members, test.images, test.tasks, by_task=False)
    every = [widen(dual.logits(m, test.images, test.tasks), 10) for m in members]
    expected = torch.where((chosen == 0)[:, None], every[0], every[1])
    assert torch.equal(dual.predict(test.images, test.tasks, key=None), expected)
    assert 0 < (chosen == 0).float().mean() < 1


def test_the_oracle_decides_against_the_elbo(routed):
    dual = routed.method.dual
    test = digits(0, 1, per_class=20, skip=120)
    wrong = dual.predict(test.images, test.tasks, key="4,5").argmax(1)
    assert set(wrong.tolist()) <= {4, 5}
    right = dual.predict(test.images, test.tasks, key="0,1")
    assert torch.equal(right, dual.logits(dual.ltm, test.images, test.tasks))


def test_routing_goes_by_task_labels_where_the_model_does():
    driver = driver_of(MultiHead(3, 10), task_aware=True, stm_size=2)
    driver.train(digits(0, 1, task=0)).train(digits(2, 3, task=1)).train(
        digits(0, 1, key="c", task=2)
    )
    dual = driver.method.dual
    members = [*dual.sttms(), dual.ltm]
    images = digits(0, 1).images
    for task, expected in [(0, 1), (1, 1), (2, 0)]:
        tasks = torch.full((len(images),), task, dtype=torch.int64)
        assert (choose_memory(members, images, tasks, by_task=True) == expected).all()


def test_a_memory_that_holds_nothing_is_not_asked():
    dual = dual_of()
    absorbed(dual.open(digits(0)), digits(0))
    data = digits(0, 1, 2)
    members = [*dual.sttms(), dual.ltm]
    assert (choose_memory(members, data.images, data.tasks, by_task=False) == 0).all()
    # Nothing known anywhere: the long-term memory answers.
    dual = dual_of()
    members = [dual.open(digits(0)), dual.ltm]
    assert (choose_memory(members, data.images, data.tasks, by_task=False) == 1).all()


@pytest.mark.parametrize("n", [1, 3, 4, 5])
@pytest.mark.parametrize("short_term", [True, False])
def test_state_dict_into_a_fresh_dual_memory(n, short_term):
    driver = driver_of(short_term=short_term, stm_size=3)
    for c in range(n):
        driver.train(digits(c, per_class=20))
    dual = driver.method.dual
    fresh = DualMemory(dual.settings)
    fresh.ltm.attach(network(seed=7))
    fresh.load_state_dict(dual.state_dict())
    assert fresh.sleeps == dual.sleeps == n // 3
    assert fresh.occupancy == dual.occupancy == n % 3
    assert fresh.full == dual.full
    assert [m.n_seen for m in fresh.sttms()] == [m.n_seen for m in dual.sttms()]
    assert [m.tasks for m in fresh.sttms()] == [m.tasks for m in dual.sttms()]
    data = digits(*range(10), per_class=5)
    for c in [None, *map(str, range(n))]:
        one = dual.predict(data.images, data.tasks, key=c)
        assert torch.equal(one, fresh.predict(data.images, data.tasks, key=c))
    for a, b in zip([*dual.sttms(), dual.ltm], [*fresh.sttms(), fresh.ltm], strict=True):
        if len(a.tasks):
            one, two = a.sample(10, rng()), b.sample(10, rng())
            assert torch.equal(one.images, two.images)
            assert torch.equal(one.labels, two.labels)
    for a, b in zip(dual.waiting(), fresh.waiting(), strict=True):
        assert a.key == b.key
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.tasks, b.tasks)


def test_without_stm_real_samples_wait_for_sleep():
    driver = driver_of(short_term=False, stm_size=2)
    first = digits(0, per_class=20)
    driver.train(first)
    dual = driver.method.dual
    assert torch.equal(dual.waiting()[0].images, first.images)
    assert len(dual.ltm.tasks) == 0
    assert memory_bytes_of(driver.method) > first.images.numel() * 4
    driver.train(digits(1, per_class=20))
    assert dual.waiting() == []
    assert list(dual.ltm.tasks) == ["0", "1"]


def test_the_answers_of_a_task_learner():
    torch.manual_seed(0)
    images = digits(2).images
    ends = {"low": (0.0,), "high": (float(images.max()),)}
    learner = TaskLearner((2, 6), shape=(1, 8, 8), **ends, architecture="dense", hidden=(8,))
    logits = learner(images)
    assert logits.shape == (len(images), 7)
    local = learner.network((images - learner.centre) / learner.scale)
    torch.testing.assert_close(logits[:, [2, 6]], local)
    others = logits[:, [0, 1, 3, 4, 5]]
    torch.testing.assert_close(others, (local.amin(1, keepdim=True) - MARGIN).expand(-1, 5))
    assert set(logits.argmax(1).tolist()) <= {2, 6}
    assert learner.centre.item() == pytest.approx(float(images.max()) / 2)


def test_widening():
    logits = torch.tensor([[1.0, -2.0]])
    assert widen(logits, 4).tolist() == [[1.0, -2.0, -2.0 - MARGIN, -2.0 - MARGIN]]
    assert widen(logits, 1) is logits


@pytest.mark.parametrize("reconstruct", [True, False])
def test_learners_see_reconstructions_if_asked(reconstruct):
    driver = driver_of(reconstruct=reconstruct)
    driver.train(digits(0, 1))
    dual, data = driver.method.dual, digits(0, 1, per_class=9)
    memory = dual.sttms()[0]
    shown = memory.generator.reconstruct(data.images) if reconstruct else data.images
    expected = memory.task_learner(shown)
    assert torch.equal(dual.logits(memory, data.images, data.tasks), expected)


def test_flat_samples():
    driver = driver_of(nn.Linear(5, 4), stm_size=2)
    torch.manual_seed(0)
    for c in range(3):
        images = torch.rand(30, 5)
        labels = torch.full((30,), c)
        driver.train(ExperienceData(images, labels, torch.zeros_like(labels), str(c)))
    assert driver.predict(torch.rand(6, 5)).shape[0] == 6
    assert driver.method.sample(9).images.shape == (9, 5)


@pytest.mark.parametrize("short_term", [True, False])
def test_a_task_met_again_is_promised_no_second_share(short_term):
    """``kappa`` is for distinct tasks: as much as ``stm_size`` of them were promised has room."""
    settings = {"kappa": 0.5, "stm_size": 2, "consolidation": "rehearsal", "n_max": 40}
    driver = driver_of(short_term=short_term, **settings)
    for task in (0, 0, 1, 2, 2, 2, 3, 4):
        driver.train(digits(task, per_class=20))
    assert driver.method.dual.sleeps >= 2
    assert set(driver.method.dual.ltm.tasks) >= {"0", "1", "2", "3"}
