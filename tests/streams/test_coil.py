"""COIL-20 as objects and rotations, from a file of the same form."""

import numpy as np
import pytest
import torch

from avalanche_dgm import turntable, turntable_domains
from avalanche_dgm.errors import ConfigError, DataError
from avalanche_dgm.streams.coil import load_coil20


@pytest.fixture
def file(tmp_path):
    """Three objects whose pixels say object and pose: 72 a object + pose."""
    images = np.arange(3 * 72, dtype=np.uint8).reshape(3, 72, 1, 1)
    path = tmp_path / "coil.npz"
    np.savez(path, images=np.broadcast_to(images, (3, 72, 16, 16)), labels=np.zeros((3, 72)))
    return path


def test_each_image_has_its_object_and_rotation_and_none_is_in_both(file):
    train, test = load_coil20(file, n_train=7, n_test=2, seed=1)
    assert (len(train), len(test)) == (3 * 8 * 7, 3 * 8 * 2)
    seen = []
    for views in (train, test):
        number = (255 * views.images[:, 0, 0, 0]).round().long()
        assert torch.equal(number // 72, views.categories)
        # Five degrees a pose, 45 a rotation.
        assert torch.equal(5 * (number % 72) // 45, views.viewpoints)
        seen += number.tolist()
        pairs = torch.stack([views.categories, views.viewpoints], dim=1)
        assert len(pairs.unique(dim=0)) == 24
    assert sorted(seen) == list(range(216))
    again, other = (load_coil20(file, seed=seed)[1] for seed in (1, 2))
    assert torch.equal(again.images, test.images)
    assert not torch.equal(other.images, test.images)


def test_it_takes_the_place_of_the_drawn_turntable(file):
    two = turntable(coil20=file, size=12)
    assert [len(set(e.dataset.targets)) for e in two.train_stream] == [3, 8]
    assert two.input_shape == (1, 12, 12)
    one_head = turntable_domains(coil20=file, size=12, categories=True, task_labels=False)
    classes = [sorted(e.classes_in_this_experience) for e in one_head.train_stream]
    assert classes == [list(range(11)), list(range(11, 21))]


def test_other_files(tmp_path, file):
    with pytest.raises(ConfigError, match="n_test=9"):
        load_coil20(file, n_test=9)
    with pytest.raises(ConfigError, match="ilab_root or coil20"):
        turntable(coil20=file, ilab_root=tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        load_coil20(tmp_path / "none.npz")
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, images=np.zeros((3, 71, 4, 4), dtype=np.uint8))
    with pytest.raises(DataError, match=r"\(3, 71, 4, 4\)"):
        load_coil20(wrong)
    np.savez(wrong, pictures=np.zeros(3))
    with pytest.raises(DataError, match="cannot be read"):
        load_coil20(wrong)
