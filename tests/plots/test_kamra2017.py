"""The figures of Kamra et al. 2017 show the numbers that the runs have."""

import numpy as np
import pytest
import torch
from driver import Driver, digits, network
from matplotlib.colors import to_hex
from PIL import Image

from avalanche_dgm import plots
from avalanche_dgm.errors import ConfigError, LabelError, ShapeError
from avalanche_dgm.experiments import ExperimentConfig, RunResult
from avalanche_dgm.experiments.results import Step
from avalanche_dgm.methods import DGDMN, Naive
from avalanche_dgm.plots import kamra2017

RNG = np.random.default_rng(0)


def run(method="dgr", seed=0, n=4, order=None, stream="digits", steps=None):
    """A run with accuracies that no two steps share."""
    order = list(range(n)) if order is None else order
    rows = RNG.random((len(order), n)).tolist()
    return RunResult(
        config=ExperimentConfig(method=method, seed=seed, stream=stream),
        tasks=[str(j) for j in range(n)],
        order=order,
        steps=[
            Step(experience=order[i], accuracy=rows[i], seconds=10.0 * (i + 1) + seed)
            for i in range(len(order) if steps is None else steps)
        ],
    )


def lines(axes):
    """The lines of axes with as many points as a stream has steps, by label."""
    return {line.get_label(): line.get_ydata() for line in axes.lines if len(line.get_xdata()) > 2}


def test_panels_show_each_task_and_the_average():
    runs = {"dgr": [run(), run(seed=1)], "dgdmn": [run("dgdmn")]}
    figure = kamra2017.accuracy_per_task(runs)
    for axes, (name, results) in zip(figure.axes, runs.items(), strict=False):
        assert axes.get_title() == name
        curves = [line.get_ydata() for line in axes.lines]
        for task in range(4):
            expected = [row[task] for row in results[0].matrix[task:]]
            np.testing.assert_allclose(curves[task], expected)
        np.testing.assert_allclose(curves[-1], results[0].averages)


def test_averages_with_a_reference_and_a_band():
    runs = {"dgr": [run(), run(seed=1)], "joint": [run("joint")]}
    axes = kamra2017.average_accuracy(runs).axes[0]
    shown = lines(axes)
    expected = np.mean([r.averages for r in runs["dgr"]], axis=0)
    np.testing.assert_allclose(shown["dgr"], expected)
    np.testing.assert_allclose(shown["joint"], runs["joint"][0].averages)
    band = axes.collections[0].get_paths()[0].vertices
    spread = np.std([r.averages for r in runs["dgr"]], axis=0, ddof=1)
    assert band[:, 1].max() == pytest.approx((expected + spread).max())
    with pytest.raises(ConfigError, match="needs runs of joint; there are dgr"):
        kamra2017.average_accuracy({"dgr": runs["dgr"]})
    kamra2017.average_accuracy({"dgr": runs["dgr"]}, reference=None)


def test_revision_marks_what_comes_back():
    runs = {"ewc": [run("ewc", order=[0, 1, 2, 3, 0, 2])]}
    axes = kamra2017.revision(runs).axes[0]
    marks = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]
    assert marks == [5, 6]
    assert [text.get_text() for text in axes.texts] == ["task 1 again", "task 3 again"]
    with pytest.raises(ConfigError, match="is repeated.*revisit"):
        kamra2017.revision({"ewc": [run("ewc")]})


def test_a_long_stream_on_all_and_on_the_last():
    runs = {"dgr": [run(n=6)]}
    left, right = kamra2017.long_stream(runs, last=2).axes
    result = runs["dgr"][0]
    np.testing.assert_allclose(lines(left)["dgr"], result.averages)
    matrix = np.array(result.matrix)
    expected = [matrix[i, max(0, i - 1) : i + 1].mean() for i in range(6)]
    np.testing.assert_allclose(lines(right)["dgr"], expected)
    with pytest.raises(ConfigError, match="6 experiences.*last 10"):
        kamra2017.long_stream(runs)
    with pytest.raises(ConfigError, match="at least 1"):
        kamra2017.long_stream(runs, last=0)


def test_training_time():
    runs = {"dgr": [run(), run(seed=8)], "dgdmn": [run("dgdmn")]}
    axes = kamra2017.training_time(runs).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [100 + 4 * 4, 100]
    assert "seconds" in axes.get_xlabel()
    slow = {"dgr": [run(n=8)]}
    (bar,) = kamra2017.training_time(slow).axes[0].patches
    assert bar.get_width() == 6
    assert "minutes" in kamra2017.training_time(slow).axes[0].get_xlabel()


def test_with_and_without_short_term_memory():
    runs = {name: [run(name)] for name in ("dgdmn", "naive", "dgdmn-no-stm")}
    left, middle, right = kamra2017.short_term_memory(runs).axes
    for axes, name in ((left, "dgdmn"), (middle, "dgdmn-no-stm")):
        np.testing.assert_allclose(lines(axes)["average of seen"], runs[name][0].averages)
    assert set(lines(right)) == {"dgdmn", "dgdmn-no-stm"}
    del runs["dgdmn-no-stm"]
    with pytest.raises(ConfigError, match="needs runs of dgdmn-no-stm"):
        kamra2017.short_term_memory(runs)


@pytest.mark.parametrize(
    "draw", [kamra2017.accuracy_per_task, kamra2017.training_time, kamra2017.long_stream]
)
def test_runs_that_cannot_be_drawn(draw):
    for runs in ({}, {"dgr": []}):
        with pytest.raises(ConfigError, match="no run"):
            draw(runs)
    with pytest.raises(ConfigError, match=r"not finished \(2 of 4.*--resume"):
        draw({"dgr": [run(steps=2)]})
    with pytest.raises(ConfigError, match="learned tdigits"):
        draw({"dgr": [run()], "dgdmn": [run("dgdmn", stream="tdigits")]})
    with pytest.raises(ConfigError, match="another order"):
        draw({"dgr": [run(), run(seed=1, order=[1, 0, 2, 3])]})


def bright(images):
    """Logits of a classifier that takes images brighter than 0.5 on the mean for class 1."""
    mean = images.flatten(1).mean(dim=1)
    return torch.stack([0.5 - mean, mean - 0.5], dim=1)


def test_where_the_patch_lies():
    images = torch.ones(2, 1, 8, 8)
    covered = kamra2017.occlude(images, 0.5)
    expected = torch.ones(8, 8)
    expected[2:6, 2:6] = 0
    assert torch.equal(covered[1, 0], expected)
    assert images.min() == 1, "a copy"
    # 3 of 8 cannot lie in the very middle.
    odd = kamra2017.occlude(images, 3 / 8, fill=7.0)[0, 0]
    rows, columns = torch.nonzero(odd == 7.0, as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 4, 2, 4)
    wide = kamra2017.occlude(torch.ones(1, 3, 4, 10), 0.8)
    assert (wide == 0).sum() == 3 * 4 * 4, "no higher than the image, and a square"
    assert torch.equal(wide[..., 3:7], torch.zeros(1, 3, 4, 4))
    assert torch.equal(kamra2017.occlude(images, 0.0), images)
    assert not kamra2017.occlude(images, 1.0).any()
    for fraction in (-0.1, 1.1):
        with pytest.raises(ConfigError, match="0 to 1"):
            kamra2017.occlude(images, fraction)
    with pytest.raises(ShapeError, match="C, H, W"):
        kamra2017.occlude(torch.ones(2, 64), 0.5)


def test_noise_grows_and_stays_the_same():
    images = torch.rand(3, 1, 4, 4)
    weak, strong = (
        kamra2017.add_noise(images, sd, generator=torch.Generator().manual_seed(3)) - images
        for sd in (0.1, 0.4)
    )
    torch.testing.assert_close(4 * weak, strong)
    with pytest.raises(ConfigError, match="0 or more"):
        kamra2017.add_noise(images, -1.0, generator=torch.Generator())


def test_robustness_by_hand():
    # Half of the area is covered at sqrt(0.5) of the width: means fall from 0.9 to 0.45.
    images = torch.stack([torch.full((1, 8, 8), v) for v in (0.9, 0.6, 0.2)])
    labels = torch.tensor([1, 1, 0])
    found = kamra2017.robustness(
        {"mean": bright, "never": lambda images: torch.tensor([[1.0, 0.0]]).repeat(len(images), 1)},
        images,
        labels,
        deviations=(0.0, 0.01),
        # Of 64 pixels 0, 16 and 36 are covered: of 0.9 there remain 0.675 and 0.394, of 0.6 0.45.
        occlusions=(0.0, 0.5, 0.75),
    )
    assert found.noisy == {"mean": (1.0, 1.0), "never": (1 / 3, 1 / 3)}
    assert found.occluded == {"mean": (1.0, 2 / 3, 1 / 3), "never": (1 / 3,) * 3}
    left, right = kamra2017.resilience(found).axes
    assert list(lines(right)["mean"]) == [1.0, 2 / 3, 1 / 3]
    assert [list(line.get_xdata()) for line in left.lines] == [[0.0, 0.01]] * 2


def test_noise_is_that_of_the_generator():
    images, labels = torch.full((200, 1, 2, 2), 0.6), torch.ones(200, dtype=torch.int64)

    def measure(seed):
        generator = torch.Generator().manual_seed(seed)
        return kamra2017.robustness(
            {"mean": bright}, images, labels, deviations=(0.0, 0.4), generator=generator
        ).noisy["mean"]

    clean, noisy = measure(1)
    assert clean == 1.0
    # The mean of 4 pixels has an sd of 0.2: half a deviation lies between 0.6 and 0.5.
    assert noisy == pytest.approx(0.69, abs=0.1)
    assert measure(1) == (clean, noisy)
    assert measure(2) != (clean, noisy)


def test_classifiers_answer_in_evaluation_mode():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    images, labels = torch.rand(6, 1, 2, 2), torch.zeros(6, dtype=torch.int64)
    kamra2017.robustness({"net": net}, images, labels, deviations=(0.0,), occlusions=())
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_robustness_of_nothing():
    images, labels = torch.rand(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ConfigError, match="no classifier"):
        kamra2017.robustness({}, images, labels)
    with pytest.raises(ConfigError, match="A str does not classify"):
        kamra2017.robustness({"a": "net"}, images, labels)
    with pytest.raises(ShapeError, match="at least one"):
        kamra2017.robustness({"a": bright}, images, labels[:1])


@pytest.fixture(scope="module")
def memory():
    """A dual memory that has learned two digits, one after the other, and slept."""
    method = DGDMN(seed=0, stm_size=1, generator_steps=30, learner_steps=30, reconstruct=True)
    driver = Driver(method, network())
    for label in (0, 1):
        driver.train(digits(label))
    return method


@pytest.fixture(scope="module")
def shown():
    data = digits(0, 1, per_class=24, skip=60)
    return data.images, data.labels


def test_the_memory_answers_on_its_reconstruction(memory, shown):
    images, labels = shown
    seen = memory.dual.ltm.reconstruct(images)
    with torch.no_grad():
        expected = (memory.learner(seen).argmax(dim=1) == labels).double().mean()
    found = kamra2017.robustness(
        {"LTM": memory}, images, labels, deviations=(0.0,), occlusions=(0.0,)
    )
    assert found.noisy["LTM"] == found.occluded["LTM"] == (float(expected),)


def test_pictures_of_corrupted_images(memory, shown):
    images, labels = shown
    state = memory.random.get_state()
    found = kamra2017.robustness({"LTM": memory}, images, labels)
    figure = kamra2017.resilience(found, memory, images[:5])
    top = figure.axes[0]
    assert [t.get_text().strip() for t in top.get_yticklabels()] == [
        *("noise, sd 0.5", "reconstructed", "patch, 0.4 of the width", "reconstructed")
    ]
    after = memory.random.get_state()
    assert after["seed"] == state["seed"]
    assert after["generators"].keys() == state["generators"].keys()
    for name, generator in state["generators"].items():
        assert torch.equal(after["generators"][name], generator), "looking changes nothing"
    with pytest.raises(ConfigError, match="does not reconstruct"):
        kamra2017.resilience(found, Naive(), images[:5])
    with pytest.raises(ConfigError, match="both"):
        kamra2017.resilience(found, memory)


def test_latents_by_seed(memory, shown):
    images, labels = shown

    def points(seed):
        axes = kamra2017.latents({"joint": memory}, images, labels, seed=seed).axes[0]
        return np.concatenate([part.get_offsets() for part in axes.collections])

    assert np.array_equal(points(0), points(0))
    figure = kamra2017.latents({"joint": memory, "sequential": memory}, images, labels)
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == ("joint", "sequential")
    for a, b in zip(left.collections, right.collections, strict=True):
        assert np.array_equal(a.get_offsets(), b.get_offsets()), "the same seed for both"
        assert len(a.get_offsets()) == 24
    colours = {to_hex(part.get_facecolor()[0]) for part in left.collections}
    assert len(colours) == 2


def test_latents_of_nothing(memory, shown):
    images, labels = shown
    with pytest.raises(LabelError, match="one class"):
        kamra2017.latents({"a": memory}, images, torch.zeros_like(labels))
    with pytest.raises(ShapeError, match="at least 5"):
        kamra2017.latents({"a": memory}, images[:4], labels[:4])
    with pytest.raises(ConfigError, match="no latents"):
        kamra2017.latents({"a": Naive()}, images, labels)
    with pytest.raises(ConfigError, match="no memory"):
        kamra2017.latents({}, images, labels)
    with pytest.raises(ConfigError, match="A Linear has no method"):
        kamra2017.latents({"a": torch.nn.Linear(2, 2)}, images, labels)


def test_samples(memory, tmp_path):
    figure = kamra2017.samples({"joint": memory, "sequential": memory}, n=4)
    for axes in figure.axes:
        assert [t.get_text() for t in axes.get_yticklabels()] == ["0", "1"]
    plots.save(figure, tmp_path / "deep" / "fig11.png")
    assert np.asarray(Image.open(tmp_path / "deep" / "fig11.png")).std() > 5
    with pytest.raises(ConfigError, match="generates no images"):
        kamra2017.samples({"a": Naive()})
    with pytest.raises(ConfigError, match="generates no images"):
        kamra2017.samples({"a": DGDMN()})
    with pytest.raises(ConfigError, match="at least 1"):
        kamra2017.samples({"a": memory}, n=0)
    with pytest.raises(ConfigError, match="no memory"):
        kamra2017.samples({})
