"""Sleep: what the long-term memory is taught, and that it learns it."""

import copy
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from driver import Driver, digits, network

from avalanche_dgm.data import ExperienceData, Replay
from avalanche_dgm.fitting import fit
from avalanche_dgm.memories.sleep import FEWEST_SAMPLES, Sleep
from avalanche_dgm.methods import DGDMN
from avalanche_dgm.optimizers import OptimizerSpec

TINY = {
    "hidden": (32,),
    "latent": 8,
    "batch_size": 32,
    "generator_steps": 20,
    "learner_steps": 20,
    "stm_learner_hidden": (16,),
}


def driver_of(seed=1, steps=20, **settings):
    torch.manual_seed(0)
    return Driver(DGDMN(seed=seed, **{**TINY, **settings}), network(), steps=steps)


def awake(driver, *tasks):
    """Fills the short-term memory, one task short of sleep."""
    for data in tasks:
        driver.train(data)
    assert driver.method.dual.sleeps == 0
    return driver.method


def sleep_of(method, seen=None):
    seen = seen if seen is not None else []
    return Sleep(
        method.dual,
        torch.Generator().manual_seed(0),
        on_replay=lambda replay, width: seen.append((replay, width)),
    )


def test_names_say_which_tasks():
    method = awake(driver_of(stm_size=5), digits(3), digits(4))
    sleep = sleep_of(method)
    assert sleep.name == "sleep: consolidating tasks 3, 4"
    names = [phase.name for phase in sleep.phases()]
    assert names == [f"{sleep.name} (generator)", f"{sleep.name} (learner)"]


def test_aligned_sleep_draws_enough_of_each_task():
    method = awake(driver_of(stm_size=5), digits(3, per_class=30), digits(4, per_class=50))
    generator, learner = sleep_of(method).phases()
    assert len(generator.data[0]) == 2 * FEWEST_SAMPLES
    assert torch.bincount(learner.data[1])[[3, 4]].tolist() == [FEWEST_SAMPLES] * 2


def test_rehearsal_draws_what_was_seen():
    method = awake(
        driver_of(stm_size=5, consolidation="rehearsal"),
        digits(3, per_class=30),
        digits(4, per_class=50),
    )
    generator, learner = sleep_of(method).phases()
    assert len(generator.data[0]) == len(learner.data[0]) == 80
    assert torch.bincount(learner.data[1])[[3, 4]].tolist() == [30, 50]


@pytest.mark.parametrize("n_max", [None, 90, 31])
@pytest.mark.parametrize("kappa", [0.05, 0.4])
@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_rehearsal_keeps_to_the_budget(n_max, kappa, labels):
    driver = driver_of(
        stm_size=2, consolidation="rehearsal", n_max=n_max, kappa=kappa, labels=labels
    )
    for c in range(2):
        driver.train(digits(c, per_class=51))
    method = driver.method
    assert method.dual.sleeps == 1
    # Two more, without the sleep that would follow.
    for c in (2, 3):
        data = digits(c, per_class=51)
        method.begin(data)
        driver.run(method.before_learning(data))
        method.end(data)
    seen = []
    sleep = sleep_of(method, seen)
    generator, learner = sleep.phases()
    n = len(generator.data[0])
    assert n == len(learner.data[0])
    share = max(0.5, 2 * kappa)
    assert n == pytest.approx(102 / share if n_max is None else n_max, abs=1)
    assert n <= (n_max or n)
    counts = torch.bincount(learner.data[1], minlength=4)
    new = counts[2:].tolist()
    assert abs(new[0] - new[1]) <= 1
    assert sum(new) == pytest.approx(share * n, abs=1)
    # What was known is counted as replay, once.
    assert len(seen) == 1
    assert len(seen[0][0]) == counts[:2].sum()
    assert (len(learner.data) == 4) == (labels == "soft")


def test_a_small_task_is_not_crowded_out_by_a_large_one():
    driver = driver_of(stm_size=3, consolidation="rehearsal", n_max=40, kappa=0.1, short_term=False)
    method = awake(driver, digits(0, per_class=150), digits(1, per_class=12))
    generator, learner = sleep_of(method).phases()
    assert torch.bincount(learner.data[1]).tolist() == [28, 12]
    assert len(generator.data[0]) == 40


def test_what_is_rehearsed_is_reconstructed_once():
    """And the learner ends as if each batch had been reconstructed for itself."""
    driver = driver_of(
        reconstruct=True,
        consolidation="rehearsal",
        labels="hard",
        learner_epochs=3,
        learner_optimizer=OptimizerSpec("adam", 1e-3),
    )
    method = driver.train_all([digits(i) for i in range(3)]).method
    assert method.dual.sleeps == 1
    ltm, sleep = method.dual.ltm, sleep_of(method)
    phases = sleep.phases()
    fit(next(phases), sleep.rng)
    learner = next(phases)
    other, seen = copy.deepcopy(ltm.learner), Replay.cat([*sleep._replays, sleep._pool])
    assert len(seen) == 180
    optimizer = torch.optim.Adam(other.parameters(), lr=1e-3, fused=True)
    order = torch.Generator().manual_seed(5)
    for _ in range(3):
        for index in torch.randperm(180, generator=order).split(32):
            optimizer.zero_grad()
            view = ltm.generator.reconstruct(seen.images[index]).detach()
            F.cross_entropy(other(view), seen.labels[index]).backward()
            optimizer.step()
    with mock.patch.object(type(ltm.generator), "reconstruct", side_effect=AssertionError):
        fit(learner, torch.Generator().manual_seed(5))
    for mine, theirs in zip(ltm.learner.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_wake_frees_the_short_term_memory():
    method = awake(driver_of(stm_size=5), digits(3), digits(4))
    dual = method.dual
    sleep = sleep_of(method)
    assert dual.occupancy == 2
    assert len(list(sleep.phases())) == 2
    sleep.wake()
    assert dual.occupancy == 0
    assert dual.sleeps == 1
    assert list(dual.ltm.tasks) == ["3", "4"]
    assert dual.ltm.generator.classes.labels.tolist() == [3, 4]


def test_sleep_without_anything_to_consolidate():
    driver = driver_of()
    assert list(driver.method.consolidate()) == []
    driver.train(digits(0)).train(digits(1))
    assert list(driver.method.consolidate()) == []
    assert driver.method.dual.sleeps == 1


def test_an_experience_that_failed_is_not_consolidated():
    driver = driver_of(stm_size=3)
    driver.train(digits(0))
    driver.method.begin(digits(7))  # and nothing of it is learned
    driver.train(digits(1)).train(digits(2))
    assert list(driver.method.dual.ltm.tasks) == ["0", "1", "2"]
    assert driver.method.dual.sleeps == 1


def test_an_interrupted_sleep_is_made_up_for():
    driver = driver_of(stm_size=2)
    driver.train(digits(0))
    data = digits(1)
    driver.method.begin(data)
    driver.run(driver.method.before_learning(data))
    next(driver.method.after_learning(data))  # the first phase, then the light goes out
    assert driver.method.dual.full
    driver.train(digits(2))
    assert driver.method.dual.sleeps == 1
    assert [m.key for m in driver.method.dual.sttms()] == ["2"]
    assert list(driver.method.dual.ltm.tasks) == ["0", "1"]


@pytest.mark.parametrize("short_term", [True, False])
def test_the_long_term_learner_learns_in_sleep(short_term):
    driver = driver_of(
        hidden=(64,),
        stm_hidden=(64,),
        generator_steps=400,
        learner_steps=400,
        batch_size=64,
        steps=60,
        stm_size=2,
        short_term=short_term,
    )
    tasks = [(0, 1), (2, 3), (4, 5), (6, 7)]
    tests = [digits(*task, per_class=40, skip=120) for task in tasks]

    def long_term():
        return [
            (driver.learner(t.images).argmax(1) == t.labels).float().mean().item() for t in tests
        ]

    for task in tasks[:2]:
        driver.train(digits(*task, per_class=120))
    first = long_term()
    assert min(first[:2]) > 0.7
    assert max(first[2:]) < 0.1
    driver.train(digits(*tasks[2], per_class=120))
    # Awake, nothing of the new task reaches the user's classifier.
    assert long_term() == first
    driver.train(digits(*tasks[3], per_class=120))
    assert driver.method.dual.sleeps == 2
    assert sum(long_term()) / 4 > 0.7


def test_without_replay_the_second_sleep_would_erase_the_first():
    """The negative of the test above: the long-term memory forgets that it knows anything."""
    driver = driver_of(
        hidden=(64,),
        generator_steps=100,
        learner_steps=400,
        batch_size=64,
        stm_size=2,
        short_term=False,
    )
    for task in [(0, 1), (2, 3), (4, 5), (6, 7)]:
        driver.train(digits(*task, per_class=120))
        ltm = driver.method.dual.ltm
        ltm.tasks.clear()
    old = digits(0, 1, 2, 3, per_class=40, skip=120)
    assert (driver.learner(old.images).argmax(1) == old.labels).float().mean() < 0.3


def test_the_same_task_twice_before_sleep():
    driver = driver_of(stm_size=2)
    driver.train(digits(0)).train(digits(0))
    dual = driver.method.dual
    assert dual.occupancy == 1
    assert dual.find("0").tasks.total() == 2
    driver.train(digits(1))
    assert list(dual.ltm.tasks) == ["0", "1"]


def test_a_task_that_grows_keeps_what_it_knew():
    """The oracle gives one name to two experiences with different classes."""
    driver = driver_of(stm_size=3)
    driver.train(digits(0, 1, key="t")).train(digits(1, 2, key="t"))
    memory = driver.method.dual.find("t")
    assert memory.classes == (0, 1, 2)
    assert memory.generator.classes.labels.tolist() == [0, 1, 2]


def test_joining_replays():
    method = awake(driver_of(stm_size=5), digits(3), digits(7))
    rng = torch.Generator().manual_seed(0)
    soft = [memory.sample(4, rng) for memory in method.dual.sttms()]
    joined = Replay.cat(soft)
    assert joined.targets.shape == (8, 8)
    assert joined.targets.argmax(1).tolist() == joined.labels.tolist() == [3] * 4 + [7] * 4


def test_tasks_given_twice_without_stm():
    driver = driver_of(stm_size=2, short_term=False)
    data = digits(0)
    driver.train(data).train(ExperienceData(data.images, data.labels, data.tasks, "0", "0"))
    assert driver.method.dual.sleeps == 1
    assert driver.method.dual.ltm.tasks["0"] == 2
    assert len(driver.method.dual.ltm.generator.classes) == 1
