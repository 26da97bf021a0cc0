"""The three methods, each for what is its own: that it remembers, and what it replays."""

import pytest
import torch
from driver import Driver, MultiHead, digits, network

from avalanche_dgm.errors import CapacityError, ConfigError, UnknownTaskError, UnsupportedModelError
from avalanche_dgm.methods import DGDMN, DGR, PseudoRehearsal
from avalanche_dgm.methods.dgdmn import PAPER, paper_settings

TINY = {"hidden": (32,), "latent": 8, "batch_size": 32, "generator_steps": 20}
DUAL = {**TINY, "learner_steps": 20, "stm_learner_hidden": (16,)}


def driver_of(kind, learner=None, *, task_aware=False, steps=20, seed=1, **hyper):
    torch.manual_seed(0)
    method = kind(seed=seed, **hyper)
    return Driver(method, learner or network(), task_aware=task_aware, steps=steps)


# Deep generative replay


@pytest.mark.parametrize("consolidation", ["aligned", "rehearsal"])
def test_dgr_remembers_and_the_plain_network_does_not(consolidation):
    stream = [digits(*pair, per_class=120) for pair in [(0, 1), (2, 3), (4, 5)]]
    test = digits(*range(6), per_class=40, skip=120)
    settings = {"hidden": (64,), "generator_steps": 150, "batch_size": 64}
    settings["consolidation"] = consolidation
    driver = driver_of(DGR, steps=150, **settings).train_all(stream)
    assert driver.accuracy(test) > 0.75

    class Silent(DGR):
        """The same, but that it replays nothing."""

        def replay(self, n):
            return None

    driver = driver_of(Silent, steps=150, **{**settings, "generator_steps": 1}).train_all(stream)
    assert driver.accuracy(test) < 0.4


def test_dgr_replays_from_the_second_experience_on():
    driver = driver_of(DGR, **TINY).train(digits(0))
    method = driver.method
    assert method.stats.read().replayed == 0
    assert driver.phases == ["generator"]
    driver.train(digits(1))
    assert method.stats.read().replayed == 20 * 128
    assert method.stats.read().histogram == {0: 20 * 128}
    driver.train(digits(2))
    assert method.stats.read().histogram == {0: 20 * 64, 1: 20 * 64}
    assert list(method.stats.read().phase_seconds) == ["generator"]
    assert method.stats.read().phase_seconds["generator"] > 0


@pytest.mark.parametrize(("size", "n", "expected"), [(None, 16, 128), (None, 300, 300), (7, 16, 7)])
def test_dgr_size_of_a_replay(size, n, expected):
    driver = driver_of(DGR, replay_size=size, **TINY).train(digits(0))
    driver.method.begin(digits(1))
    assert len(driver.method.replay(n)) == expected


def test_dgr_replays_what_was_known_before_the_experience():
    """The generator's new training must not change it."""
    driver = driver_of(DGR, **TINY).train(digits(0))
    method, data = driver.method, digits(1)
    method.begin(data)
    state = method.random.get_state()
    before = method.replay(10)
    driver.run(method.before_learning(data))
    method.random.set_state(state)
    after = method.replay(10)
    assert torch.equal(before.images, after.images)
    assert torch.equal(before.targets, after.targets)
    assert set(after.labels.tolist()) == {0}


def test_dgr_weighs_new_against_old():
    driver = driver_of(DGR, **TINY)
    weights = []
    for data in [digits(0, 1), digits(2), digits(3)]:
        driver.train(data)
        weights.append(driver.method._new_weight)
    assert weights == pytest.approx([1, 1 / 3, 1 / 4])


def test_dgr_task_labels_of_multi_head_models():
    driver = driver_of(DGR, MultiHead(3, 10), task_aware=True, **TINY)
    for task, pair in enumerate([(0, 1), (2, 3), (4, 5)]):
        driver.train(digits(*pair, task=task))
    replay = driver.method.sample(60)
    assert torch.equal(replay.tasks, replay.labels // 2)


def test_dgr_with_task_labels_and_the_prior():
    hyper = {**TINY, "sampling": "prior", "consolidation": "rehearsal"}
    with pytest.raises(UnsupportedModelError):
        driver_of(DGR, MultiHead(3, 10), task_aware=True, **hyper).train(digits(0))


def test_bad_replay_size():
    with pytest.raises(ConfigError, match="replay_size"):
        DGR(replay_size=0)


# Dual memory


def test_dgdmn_sleeps_when_it_is_full():
    driver = driver_of(DGDMN, stm_size=3, **DUAL)
    occupancy, sleeps = [], []
    for c in range(7):
        driver.train(digits(c))
        occupancy.append(driver.method.stats.read().stm_occupancy)
        sleeps.append(driver.method.stats.read().sleeps)
    assert occupancy == [1, 2, 0, 1, 2, 0, 1]
    assert sleeps == [0, 0, 1, 1, 1, 2, 2]
    asleep = [name for name in driver.phases if name.startswith("sleep")]
    assert asleep == [
        "sleep: consolidating tasks 0, 1, 2 (generator)",
        "sleep: consolidating tasks 0, 1, 2 (learner)",
        "sleep: consolidating tasks 3, 4, 5 (generator)",
        "sleep: consolidating tasks 3, 4, 5 (learner, with replay)",
    ]
    assert driver.method.stats.read().sleep_seconds > 0


def test_dgdmn_counts_what_is_replayed_in_sleep():
    driver = driver_of(DGDMN, stm_size=1, **DUAL).train(digits(0))
    assert driver.method.stats.read().replayed == 0
    driver.train(digits(1))
    assert driver.method.stats.read().histogram == {0: 20 * 32}


def test_dgdmn_replays_a_repeated_task():
    driver = driver_of(DGDMN, stm_size=3, **DUAL).train(digits(0, 1))
    assert driver.method.stats.read().replayed == 0
    driver.train(digits(0, 1))
    assert driver.method.stats.read().replayed == 20 * 32
    assert set(driver.method.stats.read().histogram) == {0, 1}
    driver.method.begin(digits(0, 1))
    assert driver.method._new_weight == 0.5
    driver.method.begin(digits(2))
    assert driver.method._new_weight == 1.0
    assert driver.method.replay(5) is None


def test_dgdmn_unknown_tasks():
    driver = driver_of(DGDMN, unknown_task="error", **DUAL).train(digits(0))
    data = digits(0)
    driver.method.predict(data.images, data.tasks, key="0")
    with pytest.raises(UnknownTaskError, match="Task 9 was never learned; learned tasks: 0"):
        driver.method.predict(data.images, data.tasks, key="9")
    driver = driver_of(DGDMN, **DUAL).train(digits(0))
    assert driver.method.predict(data.images, data.tasks, key="9").shape == (len(data), 10)


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_dgdmn_samples_all_memories(n):
    driver = driver_of(DGDMN, stm_size=2, **DUAL)
    for c in range(3):
        driver.train(digits(c))
    replay = driver.method.sample(n)
    assert len(replay) == len(replay.labels) == len(replay.tasks) == n
    if n >= 3:
        assert set(replay.labels.tolist()) == {0, 1, 2}


def test_dgdmn_learns_a_stream_and_tells_its_memories_apart():
    driver = driver_of(
        DGDMN,
        steps=100,
        stm_size=2,
        hidden=(64, 64),
        stm_hidden=(64, 64),
        latent=16,
        generator_steps=200,
        learner_steps=300,
        batch_size=64,
    )
    for pair in [(0, 1), (2, 3), (4, 5)]:
        driver.train(digits(*pair, per_class=120))
    test = digits(*range(6), per_class=40, skip=120)
    assert driver.accuracy(test) > 0.75
    # The user's classifier alone has not met the last task yet.
    alone = (driver.learner(test.images).argmax(1) == test.labels).float().mean()
    assert alone < 0.7
    driver.run(driver.method.consolidate())
    assert (driver.learner(test.images).argmax(1) == test.labels).float().mean() > 0.75


# Pseudopattern rehearsal


def test_rehearsal_is_uniform_and_labelled_by_the_former_learner():
    driver = driver_of(PseudoRehearsal).train(digits(0, 1))
    method = driver.method
    method.begin(digits(2))
    state = method.random.get_state()
    replay = method.replay(4000)
    assert replay.images.shape == (4000, 1, 8, 8)
    assert replay.images.mean().item() == pytest.approx(0.5, abs=0.01)
    assert replay.images.std().item() == pytest.approx(12**-0.5, abs=0.01)
    assert torch.equal(replay.labels, driver.learner(replay.images).argmax(1))
    with torch.no_grad():
        for parameter in driver.learner.parameters():
            parameter.zero_()
    method.random.set_state(state)
    assert torch.equal(replay.labels, method.replay(4000).labels)


def test_rehearsal_covers_the_user_s_range():
    data = digits(0, 1)
    wide = type(data)(data.images * 6 - 2, data.labels, data.tasks, "0")
    driver = driver_of(PseudoRehearsal).train(wide)
    images = driver.method.sample(500).images
    assert images.min() < -1.9
    assert images.max() > 3.9
    assert images.min() >= -2
    assert images.max() <= 4


@pytest.mark.parametrize(
    ("memory_size", "n", "expected"), [(None, 32, 32), (180, 32, 64), (90, 32, 16), (61, 1, 1)]
)
def test_rehearsal_fills_the_memory_with_random_inputs(memory_size, n, expected):
    driver = driver_of(PseudoRehearsal, memory_size=memory_size).train(digits(0))
    driver.method.begin(digits(1, per_class=60))
    assert len(driver.method.replay(n)) == expected
    share = 60 / (memory_size or 120)
    assert driver.method._new_weight == pytest.approx(share)


def test_rehearsal_without_room():
    driver = driver_of(PseudoRehearsal, memory_size=60).train(digits(0))
    with pytest.raises(CapacityError, match="Raise it"):
        driver.method.begin(digits(1, per_class=60))


def test_rehearsal_with_soft_labels():
    driver = driver_of(PseudoRehearsal, labels="soft", temperature=3.0).train(digits(0, 1))
    driver.method.begin(digits(2))
    replay = driver.method.replay(50)
    expected = torch.softmax(driver.learner(replay.images) / 3.0, dim=1)
    torch.testing.assert_close(replay.targets, expected)


def test_rehearsal_of_multi_head_models_keeps_to_the_tasks_seen():
    driver = driver_of(PseudoRehearsal, MultiHead(4, 10), task_aware=True)
    driver.train(digits(0, task=1)).train(digits(1, task=3))
    assert set(driver.method.sample(100).tasks.tolist()) == {1, 3}


@pytest.mark.parametrize(
    "hyper", [{"labels": "noisy"}, {"temperature": 0.0}, {"memory_size": 0}, {"seed": -1}]
)
def test_rehearsal_bad_settings(hyper):
    with pytest.raises(ConfigError, match=next(iter(hyper))):
        PseudoRehearsal(**hyper)


# The paper's settings


@pytest.mark.parametrize("stream", ["digits", "permnist", "tdigits"])
def test_paper_settings_are_accepted(stream):
    settings = DGDMN(**paper_settings(stream)).settings
    assert settings.n_max == PAPER[stream].n_max
    assert (settings.sampling, settings.consolidation, settings.labels) == (
        "prior",
        "rehearsal",
        "hard",
    )
    assert DGDMN(**paper_settings(stream, scale=0.1)).settings.n_max == PAPER[stream].n_max // 10
    DGDMN(**{**paper_settings(stream), "short_term": False, "stm_size": 1})


def test_paper_settings_run_on_small_data():
    hyper = {**paper_settings("tdigits", scale=0.001), "generator_epochs": 1, "learner_epochs": 1}
    driver = driver_of(DGDMN, **{**hyper, "stm_size": 2})
    for c in range(5):
        driver.train(digits(c))
    assert driver.method.stats.read().sleeps == 2
    assert driver.predict(digits(0).images, key="0").shape[0] == 60


def test_unknown_paper_streams():
    with pytest.raises(ConfigError, match="digits, permnist, tdigits"):
        DGDMN.paper("cifar")
