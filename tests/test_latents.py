"""What says that samples are latents stays with them, and comes off before a network."""

import copy
import pickle

import pytest
import torch

from avalanche_dgm.data import ExperienceData, Latents, Replay, append_replay


def latents(n=4):
    return Latents.of(torch.arange(12.0 * n).view(n, 3, 4))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[1:],
        lambda x: x[:0],
        lambda x: x[torch.tensor([2, 0])],
        lambda x: x[x[:, 0, 0] > 3],
        lambda x: x.to(torch.bfloat16),
        lambda x: x.cpu().float(),
        lambda x: x.split(3)[1],
        lambda x: torch.cat([x, x]),
        lambda x: torch.cat([torch.zeros(1, 3, 4), x]),
        lambda x: torch.as_tensor(x),
        lambda x: copy.deepcopy(x),
        lambda x: copy.copy(x),
        lambda x: pickle.loads(pickle.dumps(x)),
    ],
)
def test_it_stays(change):
    changed, plain = change(latents()), change(latents().plain())
    assert type(changed) is Latents
    assert type(plain) is torch.Tensor
    assert torch.equal(changed.plain(), plain)


def test_it_comes_off_in_the_same_memory():
    marked = latents()
    assert type(marked.plain()) is torch.Tensor
    assert marked.plain().data_ptr() == marked.data_ptr()


def test_it_stays_in_experiences_and_replays():
    labels = torch.zeros(4, dtype=torch.int64)
    data = ExperienceData(latents(), labels, labels, "a")
    replay = Replay.cat([Replay(latents(), labels, labels)] * 2)
    joined, tasks = append_replay(data.take(torch.tensor([1])).images, labels[:1], replay)
    assert type(joined) is Latents
    assert joined.shape == (9, 3, 4)
    assert len(tasks) == 9


def test_copies_share_no_memory():
    marked = latents()
    other = copy.deepcopy(marked)
    other += 1
    assert not torch.equal(marked, other)
