"""A benchmark's batches: Avalanche's own where nothing is shuffled, the same on several devices."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from avalanche.benchmarks import benchmark_with_validation_stream
from avalanche.benchmarks.utils.classification_dataset import (
    _make_taskaware_classification_dataset as make_dataset,
)
from avalanche.benchmarks.utils.data_loader import TaskBalancedDataLoader
from torch.utils.data import DataLoader

from avalanche_dgm import sklearn_digits
from avalanche_dgm.data import ExperienceData
from avalanche_dgm.errors import ConfigError, DataError
from avalanche_dgm.lightning.batches import LazyBatches, TensorBatches
from avalanche_dgm.lightning.data import StreamDataModule
from avalanche_dgm.lightning.package import pl
from avalanche_dgm.lightning.ranks import Ranks
from avalanche_dgm.randomness import global_state


@pytest.fixture(scope="module")
def benchmark():
    """Five experiences of two digits."""
    return sklearn_digits(n_experiences=5, seed=0)


@pytest.fixture(scope="module")
def mixed():
    """One experience with three task labels, of 288, 284 and 290 samples."""
    stream = sklearn_digits(n_experiences=5, seed=0, task_labels=True).train_stream
    dataset = stream[0].dataset.concat(stream[1].dataset).concat(stream[2].dataset)
    experience = SimpleNamespace(dataset=dataset)
    return SimpleNamespace(train_stream=[experience], test_stream=[experience])


def numbered(n):
    """Images that hold their own position."""
    images = torch.arange(n, dtype=torch.float32)[:, None]
    labels = torch.arange(n) % 7
    return ExperienceData(images, labels, torch.zeros(n, dtype=torch.int64), "numbers")


def flat(lists):
    return [item for items in lists for item in items]


def positions(loader):
    """The positions in each batch of `numbered` samples."""
    return [images.flatten().long().tolist() for images, _, _ in loader]


def same(mine, theirs):
    mine, theirs = list(mine), list(theirs)
    assert len(mine) == len(theirs)
    for (x, y, t), other in zip(mine, theirs, strict=True):
        assert x.dtype == torch.float32
        assert y.dtype == t.dtype == torch.int64
        assert torch.equal(x, other[0])
        assert torch.equal(y, other[1])
        assert torch.equal(t, other[-1])


def changed(transform, *, n=40, evaluation=None):
    """A benchmark whose training images go through a transform."""
    data = [(torch.full((1, 4, 4), i / n), i % 2) for i in range(n)]
    dataset = make_dataset(
        data,
        targets=[y for _, y in data],
        task_labels=0,
        transform_groups={"train": (transform, None), "eval": (evaluation, None)},
    )
    experience = SimpleNamespace(dataset=dataset)
    return SimpleNamespace(train_stream=[experience], test_stream=[experience])


def noisy(image):
    return image + torch.rand(())


def rarely_black(image):
    return image * (torch.rand(()) > 0.1)


class TestAsAvalanche:
    @pytest.mark.parametrize("in_memory", [True, False])
    @pytest.mark.parametrize("size", [64, 41, 1000])
    def test_training(self, benchmark, in_memory, size):
        module = StreamDataModule(benchmark, batch_size=size, shuffle=False, in_memory=in_memory)
        for i, experience in enumerate(benchmark.train_stream):
            dataset = experience.dataset.train()
            theirs = TaskBalancedDataLoader(
                dataset, batch_size=size, shuffle=False, oversample_small_groups=True
            )
            same(module.train_batches(i), theirs)
            assert module.train_batches(i).sizes == [len(batch[0]) for batch in theirs]

    def test_a_last_batch_of_one_sample_is_kept_without_shuffling(self, benchmark):
        n = len(benchmark.train_stream[0].dataset)
        module = StreamDataModule(benchmark, batch_size=n - 1, shuffle=False)
        assert module.train_batches(0).sizes == [n - 1, 1]

    @pytest.mark.parametrize("in_memory", [True, False])
    @pytest.mark.parametrize(("size", "drop_last"), [(64, False), (50, True), (287, False)])
    def test_several_task_labels_in_one_experience(self, mixed, in_memory, size, drop_last):
        module = StreamDataModule(
            mixed, batch_size=size, shuffle=False, in_memory=in_memory, drop_last=drop_last
        )
        theirs = TaskBalancedDataLoader(
            mixed.train_stream[0].dataset.train(),
            batch_size=size,
            shuffle=False,
            oversample_small_groups=True,
            drop_last=drop_last,
        )
        same(module.train_batches(0), theirs)

    def test_balanced_batches_shuffle_within_the_shares(self, mixed):
        loader = StreamDataModule(mixed, batch_size=30).train_batches(0)
        # Near the end, the smaller ones begin again.
        for _, _, tasks in list(loader)[:25]:
            assert torch.bincount(tasks).tolist() == [10, 10, 10]
        first = next(iter(loader))[0]
        loader.set_epoch(1)
        assert not torch.equal(first, next(iter(loader))[0])

    @pytest.mark.parametrize("in_memory", [True, False])
    def test_evaluation(self, benchmark, in_memory):
        module = StreamDataModule(benchmark, eval_batch_size=50, in_memory=in_memory)
        for j, experience in enumerate(benchmark.test_stream):
            same(module.test_batches(j), DataLoader(experience.dataset.eval(), batch_size=50))


class TestOrder:
    def test_each_epoch_is_a_pass_of_its_own(self):
        loader = TensorBatches(numbered(100), batch_size=32, shuffle=True)
        passes = []
        for epoch in range(3):
            loader.set_epoch(epoch)
            passes.append(flat(positions(loader)))
        assert all(sorted(p) == list(range(100)) for p in passes)
        assert len({tuple(p) for p in passes}) == 3
        assert passes[0] != list(range(100))

    def test_seed_experience_and_epoch_decide_and_nothing_else(self):
        def drawn(**other):
            torch.manual_seed(len(other))
            loader = TensorBatches(
                numbered(50),
                **{"batch_size": 8, "shuffle": True, "seed": 3, "experience": 1, "epoch": 2}
                | other,
            )
            return positions(loader)

        assert drawn() == drawn(start=0)
        for other in ({"seed": 4}, {"experience": 2}, {"epoch": 3}):
            assert drawn() != drawn(**other)

    @pytest.mark.parametrize("in_memory", [True, False])
    def test_the_global_generators_are_left_alone(self, benchmark, in_memory):
        module = StreamDataModule(benchmark, in_memory=in_memory)
        before = global_state()["torch"]
        list(module.train_batches(0))
        list(module.test_batches(0))
        assert torch.equal(before, global_state()["torch"])

    @pytest.mark.parametrize("shuffle", [True, False])
    @pytest.mark.parametrize("start", [1, 3, 7])
    def test_start_gives_the_rest_of_the_epoch(self, shuffle, start):
        choices = {"batch_size": 10, "shuffle": shuffle, "epoch": 5}
        whole = TensorBatches(numbered(65), **choices)
        rest = TensorBatches(numbered(65), **choices, start=start)
        assert positions(rest) == positions(whole)[start:]
        assert rest.sizes == whole.sizes[start:]
        assert len(rest) == len(whole) - start
        rest.set_epoch(5)
        assert len(rest) == len(whole) - start
        rest.set_epoch(6)
        whole.set_epoch(6)
        assert positions(rest) == positions(whole)

    def test_shuffling_leaves_out_a_last_batch_of_one_sample(self):
        assert TensorBatches(numbered(21), batch_size=10, shuffle=True).sizes == [10, 10]
        assert TensorBatches(numbered(22), batch_size=10, shuffle=True).sizes == [10, 10, 2]
        assert TensorBatches(numbered(1), batch_size=10, shuffle=True).sizes == [1]
        assert TensorBatches(numbered(3), batch_size=1, shuffle=True).sizes == [1, 1, 1]
        assert TensorBatches(numbered(22), batch_size=10, drop_last=True).sizes == [10, 10]
        assert TensorBatches(numbered(20), batch_size=10, drop_last=True).sizes == [10, 10]


class TestRanks:
    @pytest.mark.parametrize("world", [2, 3])
    @pytest.mark.parametrize("read", [False, True])
    @pytest.mark.parametrize("shuffle", [False, True])
    def test_parts_unite_to_the_whole_batch(self, world, read, shuffle):
        data = numbered(100)
        samples = list(zip(data.images, data.labels.tolist(), data.tasks.tolist(), strict=True))
        choices = {"batch_size": 16, "shuffle": shuffle, "epoch": 4}

        def loader(ranks):
            if read:
                return LazyBatches(samples, ranks=ranks, **choices)
            return TensorBatches(data, ranks=ranks, **choices)

        whole = positions(loader(None))
        parts = [positions(loader(Ranks(r, world))) for r in range(world)]
        assert {len(p) for p in parts} == {len(whole)}
        for step, batch in enumerate(whole):
            mine = [p[step] for p in parts]
            # BatchNorm needs two samples, so a batch too small for that is everybody's.
            if len(batch) < 2 * world:
                assert all(p == batch for p in mine)
            else:
                assert flat(mine) == batch
                assert min(map(len, mine)) >= 2
        assert loader(Ranks(1, world)).sizes == [len(batch) for batch in whole]

    @pytest.mark.parametrize("n", [97, 98, 99, 100, 16, 17, 5])
    @pytest.mark.parametrize("world", [2, 3, 4])
    def test_evaluation_sees_every_sample_once(self, n, world):
        loaders = [
            TensorBatches(numbered(n), batch_size=16, exact=True, ranks=Ranks(r, world))
            for r in range(world)
        ]
        seen = [flat(positions(loader)) for loader in loaders]
        if n < 2 * world:
            assert all(s == list(range(n)) for s in seen)
        else:
            assert sorted(flat(seen)) == list(range(n))
        assert len({len(loader) for loader in loaders}) == 1

    def test_one_process_evaluates_in_plain_batches(self):
        assert TensorBatches(numbered(33), batch_size=16, exact=True).sizes == [16, 16, 1]

    def test_the_trainer_says_which_part(self, benchmark):
        whole = [y for _, y, _ in StreamDataModule(benchmark, batch_size=50).train_batches(2)]
        parts = []
        for rank in range(2):
            module = StreamDataModule(benchmark, batch_size=50)
            device = SimpleNamespace(root_device=torch.device("cpu"))
            module.trainer = SimpleNamespace(global_rank=rank, world_size=2, strategy=device)
            module.set_experience(2)
            parts.append([y for _, y, _ in module.train_dataloader()])
            assert len(module.test_dataloader()) == 5
        for batch, first, second in zip(whole, *parts, strict=True):
            assert torch.equal(batch, torch.cat([first, second]))


class TestAugmentation:
    @pytest.mark.parametrize(
        ("transform", "in_memory"),
        [
            (None, True),
            (lambda image: 1 - image, False),
            (noisy, False),
            (rarely_black, False),
            (lambda image: image[:, :3], False),
        ],
    )
    def test_tensors_only_where_nothing_is_lost(self, transform, in_memory):
        module = StreamDataModule(changed(transform))
        before = global_state()["torch"]
        assert isinstance(module.train_batches(0), TensorBatches if in_memory else LazyBatches)
        assert torch.equal(before, global_state()["torch"])

    def test_test_images_with_random_transforms_are_read_anew(self):
        module = StreamDataModule(changed(None, evaluation=noisy))
        assert isinstance(module.test_batches(0), LazyBatches)
        assert isinstance(StreamDataModule(changed(noisy)).test_batches(0), TensorBatches)

    def test_large_experiences_are_read_as_they_are_needed(self, benchmark, monkeypatch):
        monkeypatch.setattr("avalanche_dgm.lightning.data.MEMORY_LIMIT", 4 * 64 * 100)
        assert isinstance(StreamDataModule(benchmark).train_batches(0), LazyBatches)
        n = len(benchmark.train_stream[0].dataset)
        monkeypatch.setattr("avalanche_dgm.lightning.data.MEMORY_LIMIT", 4 * 64 * n)
        assert isinstance(StreamDataModule(benchmark).train_batches(0), TensorBatches)

    def test_every_epoch_is_augmented_anew(self):
        module = StreamDataModule(changed(noisy), batch_size=40, shuffle=False)
        loader = module.train_batches(0)
        first, second = next(iter(loader))[0], next(iter(loader))[0]
        assert not torch.equal(first, second)
        # The method that remembers is given the images as they are.
        plain = module.experience_data(0).images
        assert torch.equal(plain[:, 0, 0, 0], torch.arange(40) / 40)
        assert bool((first >= plain).all())
        assert bool((first < plain + 1).all())

    def test_forced_into_memory(self):
        module = StreamDataModule(changed(noisy), batch_size=40, shuffle=False, in_memory=True)
        assert torch.equal(next(iter(module.train_batches(0)))[0], module.experience_data(0).images)

    def test_worker_processes_draw_by_seed_epoch_and_rank(self):
        stream = changed(noisy)

        def drawn(**other):
            dataset = stream.train_stream[0].dataset.train()
            loader = LazyBatches(dataset, batch_size=20, num_workers=1, **other)
            return torch.cat([images for images, _, _ in loader])

        first = drawn()
        assert torch.equal(first, drawn())
        assert not torch.equal(first, drawn(epoch=1))


class Recorder(pl.LightningModule):
    """Notes which labels each stage saw."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.seen = {"train": [], "val": [], "test": []}

    def training_step(self, batch, batch_idx):
        images, labels, _ = batch
        self.seen["train"].append(labels.tolist())
        return torch.nn.functional.cross_entropy(self.layer(images.flatten(1)), labels)

    def validation_step(self, batch, batch_idx):
        self.seen["val"].append(batch[1].tolist())

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self.seen["test"].append((dataloader_idx, batch[1].tolist()))

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        return self.layer(batch[0].flatten(1))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**kwargs):
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **kwargs,
    )


class TestInATrainer:
    @pytest.mark.parametrize("in_memory", [None, False])
    def test_every_epoch_has_its_order(self, benchmark, in_memory):
        data = StreamDataModule(benchmark, batch_size=64, in_memory=in_memory)
        data.set_experience(3)
        module = Recorder()
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*(zero|workers|sampler)")
            trainer(max_epochs=2).fit(module, datamodule=data)
        loader = data.train_batches(3)
        expected = [y.tolist() for _, y, _ in loader]
        loader.set_epoch(1)
        expected += [y.tolist() for _, y, _ in loader]
        assert module.seen["train"] == expected
        assert module.seen["val"] == []

    def test_tests_and_predictions_are_of_every_experience(self, benchmark):
        data = StreamDataModule(benchmark, eval_batch_size=100)
        module = Recorder()
        trainer().test(module, datamodule=data, verbose=False)
        assert {j for j, _ in module.seen["test"]} == set(range(5))
        for j, experience in enumerate(benchmark.test_stream):
            mine = flat((y for k, y in module.seen["test"] if k == j))
            assert mine == [int(y) for y in experience.dataset.targets]
        answers = trainer().predict(module, datamodule=data)
        assert [sum(map(len, a)) for a in answers] == [
            len(e.dataset) for e in benchmark.test_stream
        ]

    def test_validation_stream(self, benchmark):
        split = benchmark_with_validation_stream(benchmark, validation_size=0.25, seed=0)
        data, module = StreamDataModule(split, batch_size=64), Recorder()
        data.set_experience(1)
        trainer(max_epochs=1).fit(module, datamodule=data)
        seen = flat(module.seen["val"])
        assert seen == [int(y) for y in split.valid_stream[1].dataset.targets]
        assert len(seen) + sum(map(len, module.seen["train"])) == pytest.approx(
            len(benchmark.train_stream[1].dataset), abs=1
        )


class TestMemory:
    def test_one_training_experience_is_kept(self, benchmark):
        module = StreamDataModule(benchmark)
        first = module.experience_data(0)
        assert module.experience_data(0) is first
        module.experience_data(1)
        again = module.experience_data(0)
        assert again is not first
        assert torch.equal(again.images, first.images)

    def test_test_sets_are_kept_up_to_the_limit(self, benchmark, monkeypatch):
        module = StreamDataModule(benchmark, in_memory=True)
        assert module.test_batches(0).data is module.test_batches(0).data
        monkeypatch.setattr("avalanche_dgm.lightning.data.MEMORY_LIMIT", 1)
        assert module.test_batches(1).data is not module.test_batches(1).data

    def test_keys_are_those_of_the_plugins(self, benchmark):
        module = StreamDataModule(benchmark)
        keys = [module.experience_data(i).key for i in range(5)]
        assert keys == [e.task_name for e in benchmark.train_stream]
        module = StreamDataModule(benchmark, oracle="experience")
        assert module.experience_data(2).key == "#2"

    def test_the_experience_is_in_checkpoints(self, benchmark):
        module, other = StreamDataModule(benchmark), StreamDataModule(benchmark)
        module.set_experience(4)
        other.load_state_dict(module.state_dict())
        assert other.experience == 4


class TestErrors:
    def test_no_streams(self):
        with pytest.raises(ConfigError, match="has no train_stream"):
            StreamDataModule([1, 2])

    @pytest.mark.parametrize("i", [-1, 5, 1.5])
    def test_no_such_experience(self, benchmark, i):
        module = StreamDataModule(benchmark)
        with pytest.raises(ConfigError, match="experiences 0 to 4"):
            module.set_experience(i)
        with pytest.raises(ConfigError, match="no experience"):
            module.test_batches(i)

    @pytest.mark.parametrize(
        "choice", [{"batch_size": 0}, {"eval_batch_size": 2.5}, {"seed": -1}, {"num_workers": -2}]
    )
    def test_numbers(self, benchmark, choice):
        with pytest.raises(ConfigError, match=next(iter(choice))):
            StreamDataModule(benchmark, **choice)

    @pytest.mark.parametrize("in_memory", [None, True, False])
    def test_empty_experience(self, benchmark, in_memory):
        empty = SimpleNamespace(dataset=benchmark.train_stream[0].dataset.subset([]))
        stream = SimpleNamespace(train_stream=[empty], test_stream=[empty])
        module = StreamDataModule(stream, in_memory=in_memory)
        with pytest.raises(DataError, match="holds no samples"):
            module.train_batches(0)
        with pytest.raises(DataError, match="holds no samples"):
            module.test_batches(0)

    def test_nothing_left(self, benchmark):
        module = StreamDataModule(benchmark, batch_size=1000, drop_last=True)
        with pytest.raises(ConfigError, match="drop_last"):
            module.train_batches(0)

    def test_too_many_task_labels(self, mixed):
        with pytest.raises(ConfigError, match="3 task labels"):
            StreamDataModule(mixed, batch_size=2).train_batches(0)

    def test_images_that_are_no_tensors(self):
        stream = changed(str)
        with pytest.raises(DataError, match="ToTensor"):
            StreamDataModule(stream).train_batches(0)
