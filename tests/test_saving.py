"""Files of what a method remembers: complete, checked, and unable to run anything."""

from __future__ import annotations

import copy
import hashlib
import io
import itertools
import json
import os
import pickle
import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from driver import Driver, digits, network
from torch import nn

from avalanche_dgm import load_memory, save_memory
from avalanche_dgm.errors import CheckpointError, ConfigError, UnsupportedModelError
from avalanche_dgm.generators.base import VAESettings
from avalanche_dgm.generators.vae_generator import VAEGenerator
from avalanche_dgm.methods import ALTM, DGR, Method, Naive, PseudoRehearsal
from avalanche_dgm.methods.base import VERSION
from avalanche_dgm.optimizers import OptimizerSpec
from avalanche_dgm.settings import MethodSettings

TINY = {"hidden": (24,), "latent": 6, "generator_steps": 4}
KINDS = {"F32": np.float32, "I64": np.int64, "I32": np.int32, "U8": np.uint8, "BOOL": np.bool_}


def trained(method, learner=None, n=2):
    driver = Driver(method, network() if learner is None else learner, steps=2)
    for i in range(n):
        driver.train(digits(2 * i, 2 * i + 1, per_class=10))
    return driver


@pytest.fixture(scope="module")
def driver():
    return trained(DGR(seed=1, **TINY))


@pytest.fixture
def file(driver, tmp_path):
    save_memory(driver.method, tmp_path / "memory.safetensors")
    return tmp_path / "memory.safetensors"


def parts(content):
    """A second reader of the layout, by its description."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    return header, content[8 + length :]


def forged(content, change):
    """The file with another header, and with a digest that is right for it."""
    header, data = parts(content)
    memory = json.loads(header["__metadata__"]["memory"])
    change(header, memory)
    header["__metadata__"].update(memory=json.dumps(memory), sha256="0" * 64)
    raw = json.dumps(header).encode()
    raw = struct.pack("<Q", len(raw)) + raw + data
    return raw.replace(b"0" * 64, hashlib.sha256(raw).hexdigest().encode(), 1)


def flat(value):
    """A state's values in order, tensors as bytes."""
    if isinstance(value, torch.Tensor):
        return [value.dtype, value.shape, value.numpy().tobytes()]
    if isinstance(value, dict):
        return [x for key, v in value.items() for x in (key, *flat(v))]
    return [x for v in value for x in flat(v)] if isinstance(value, (list, tuple)) else [value]


def snapshot(*modules):
    """All that training goes on from: tensors, random numbers, gradients wanted or not."""
    wanted = [(m.training, [p.requires_grad for p in m.parameters()]) for m in modules]
    return [flat(m.state_dict()) for m in modules], wanted


def refuses(target, model, content, match):
    before = snapshot(target, model)
    attached = target.learner
    with pytest.raises(CheckpointError, match=match):
        load_memory(target, io.BytesIO(content), model=model)
    assert snapshot(target, model) == before
    assert target.learner is attached


def test_the_layout_is_that_of_safetensors(driver, file):
    """As another program reads it: header, places without gaps, little-endian values."""
    header, data = parts(file.read_bytes())
    metadata = header.pop("__metadata__")
    assert all(isinstance(value, str) for value in metadata.values())
    places = sorted(entry["data_offsets"] for entry in header.values())
    assert places[0][0] == 0
    assert places[-1][1] == len(data)
    assert all(one[1] == two[0] for one, two in itertools.pairwise(places))
    # Each weight of the classifier is in the file once, under one of its names.
    state = driver.method.state_dict()
    assert sum("learner" in name for name in header) == len(driver.learner.state_dict())
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        found = np.frombuffer(data[start:end], KINDS[entry["dtype"]]).reshape(entry["shape"])
        if name in state:
            assert np.array_equal(found, state[name].numpy()), name
    settings = json.loads(metadata["memory"])["settings"]
    assert settings["hidden"] == [24]
    assert settings["generator_optimizer"]["schedule"] == "one-cycle", "defaults are in it"
    assert "seed" not in settings


def test_paths_and_files(driver, tmp_path):
    path = tmp_path / "new" / "folder" / "memory"
    buffer = io.BytesIO()
    save_memory(driver.method, str(path))
    save_memory(driver.method, buffer)
    assert path.read_bytes() == buffer.getvalue()
    assert os.listdir(path.parent) == ["memory"]
    for source in (path, str(path), io.BytesIO(buffer.getvalue()), open(path, "rb")):  # noqa: SIM115
        fresh = DGR(**TINY)
        load_memory(fresh, source, model=network(seed=3))
        assert torch.equal(
            fresh.ltm.generator.density.means, driver.method.ltm.generator.density.means
        )
    with pytest.raises(FileNotFoundError):
        load_memory(DGR(**TINY), tmp_path / "absent", model=network())


def test_what_cannot_be_saved_leaves_the_old_file(file):
    before = file.read_bytes()
    with pytest.raises(CheckpointError, match="train on an experience first"):
        save_memory(DGR(**TINY), file)

    class Odd(nn.Linear):
        def get_extra_state(self):
            return {"when": object()}

        def set_extra_state(self, state):
            pass

    phases = nn.Linear(64, 10)
    phases.register_buffer("phase", torch.zeros(2, dtype=torch.complex64))
    for layer, match in (
        (Odd(64, 10), r"learner\.1\._extra_state\.when.* is a object"),
        (phases, "phase is a tensor of torch.complex64"),
    ):
        method = Naive()
        method.attach(nn.Sequential(nn.Flatten(), layer), task_aware=False)
        with pytest.raises(CheckpointError, match=match):
            save_memory(method, file)
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_a_flipped_byte_anywhere_is_found(file):
    content = file.read_bytes()
    length = len(parts(content)[0]["__metadata__"]["memory"])
    target, model = DGR(seed=5, **TINY), network(seed=6)
    before = snapshot(target, model)
    draw = torch.Generator().manual_seed(0)
    anywhere = torch.randint(len(content), (30,), generator=draw).tolist()
    for place in [*range(0, 8), *range(8, length, 401), len(content) - 1, *anywhere]:
        for bit in (1, 32, 128):
            broken = bytearray(content)
            broken[place] ^= bit
            with pytest.raises(CheckpointError):
                load_memory(target, io.BytesIO(broken), model=model)
    assert snapshot(target, model) == before


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 200, -1])
def test_truncated_files(file, length):
    content = file.read_bytes()
    refuses(DGR(**TINY), network(), content[:length], "damaged")
    refuses(DGR(**TINY), network(), content + b"\0", "damaged")


class Opens:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_pickle_is_not_run(tmp_path):
    ran = tmp_path / "ran"
    buffer = io.BytesIO()
    torch.save({"state": Opens(str(ran))}, buffer)
    for content in (pickle.dumps(Opens(str(ran))), buffer.getvalue()):
        refuses(DGR(**TINY), network(), content, "is no memory.*can run code")
        assert not ran.exists()
    pickle.loads(pickle.dumps(Opens(str(ran)))).close()
    assert ran.exists(), "the pickle would do it"


def test_foreign_files():
    header = b'{"__metadata__": {"format": "pt"}, "a": {"dtype": "U8"}}'
    for content in (b"", b"text", b"[" * 10**5, struct.pack("<Q", len(header)) + header):
        refuses(DGR(**TINY), network(), content, "is no memory")
    deep = b"[" * 10**5
    refuses(DGR(**TINY), network(), struct.pack("<Q", len(deep)) + deep, "is no memory")


def of_version(version):
    def change(header, memory):
        header["__metadata__"]["version"] = str(version)

    return change


def change_nothing(header, memory):
    pass


def drop_random_numbers(header, memory):
    memory["state"].pop("_extra_state")


def point_outside(header, memory):
    header["learner.1.bias"] = {"dtype": "F32", "shape": [10], "data_offsets": [-40, -1]}
    memory["state"]["learner.1.bias"] = {"tensor": "learner.1.bias"}


def name_a_class(header, memory):
    memory["state"]["_extra_state"] = {"class": "os.system"}


def another_shape(header, memory):
    header["ltm.generator.network.encoder.1.0.weight"]["shape"].reverse()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (of_version(VERSION + 1), f"version {VERSION + 1}.*Update avalanche_dgm"),
        (of_version(VERSION - 1), "saved by an earlier avalanche_dgm.*Train the memory again"),
        (drop_random_numbers, "does not fit"),
        (point_outside, "damaged"),
        (name_a_class, "damaged"),
        (another_shape, "does not fit"),
    ],
)
def test_contents_that_do_not_fit_change_nothing(file, change, match):
    """Whoever writes a file can make the digest right as well."""
    content = file.read_bytes()
    refuses(DGR(**TINY), network(), forged(content, change), match)
    load_memory(DGR(**TINY), io.BytesIO(forged(content, change_nothing)), model=network())


def test_a_state_of_an_earlier_version(driver):
    state = driver.method.state_dict()
    state["_extra_state"] = {k: v for k, v in state["_extra_state"].items() if k != "version"}
    with pytest.raises(CheckpointError, match="an earlier avalanche_dgm.*Train the memory again"):
        DGR(**TINY).load_state_dict(state)


def test_another_method_or_other_settings(file):
    content = file.read_bytes()
    refuses(PseudoRehearsal(), network(), content, "memory of DGR, not of PseudoRehearsal")
    other = DGR(**{**TINY, "latent": 7}, labels="hard")
    refuses(other, network(), content, re.escape("labels=None (now 'hard'), latent=6 (now 7)"))
    used = trained(DGR(seed=2, **{**TINY, "kappa": 0.1}), network(seed=4)).method
    refuses(used, used.learner, content, "kappa=0.0 ")


def test_a_setting_that_is_newer_than_the_file(file):
    def older(header, memory):
        del memory["settings"]["count"]

    load_memory(DGR(**TINY), io.BytesIO(forged(file.read_bytes(), older)), model=network())


def test_equal_settings_are_equal_however_they_are_written(driver):
    buffer = io.BytesIO()
    save_memory(driver.method, buffer)
    numpy = {"hidden": [24], "latent": 6, "generator_steps": 4, "kl_weight": np.float64(0.3)}
    for hyper in (numpy, {**TINY, "generator_optimizer": OptimizerSpec("adam", 1e-3, "one-cycle")}):
        buffer.seek(0)
        load_memory(DGR(seed=9, **hyper), buffer, model=network())


@pytest.mark.parametrize("seed", [0, 3])
def test_another_network(file, seed):
    wide = nn.Sequential(nn.Flatten(1), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    deep = nn.Sequential(*network(), nn.Linear(10, 10))
    for model in (wide, deep):
        method = DGR(seed=seed, **TINY)
        refuses(method, model, file.read_bytes(), "does not fit the model, a Sequential")
        load_memory(method, file, model=network())


def test_a_stable_network_of_another_shape(tmp_path):
    save_memory(trained(ALTM(seed=0)).method, tmp_path / "memory")
    wide = nn.Sequential(nn.Flatten(1), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    refuses(ALTM(), wide, (tmp_path / "memory").read_bytes(), "does not fit the model")


def test_a_model_that_cannot_be_copied(file):
    class Single(nn.Linear):
        def __deepcopy__(self, memo):
            raise TypeError("a handle cannot be copied")

    with pytest.raises(UnsupportedModelError, match="cannot be copied"):
        load_memory(DGR(**TINY), file, model=nn.Sequential(nn.Flatten(), Single(64, 10)))


def test_targets_and_models_that_are_missing(file):
    with pytest.raises(ConfigError, match="model="):
        load_memory(DGR(**TINY), file)
    for call in (save_memory, load_memory):
        with pytest.raises(ConfigError, match="Linear has no memory"):
            call(nn.Linear(1, 1), file)


class Kept(nn.Linear):
    """A layer whose state is more than tensors."""

    def __init__(self):
        super().__init__(64, 10)
        self.extra = None

    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, state):
        self.extra = state


def test_values_come_back_as_what_they_were(tmp_path):
    values = [torch.tensor(True), torch.empty(0, 3), torch.arange(3.0).bfloat16()]
    values += [torch.tensor(v, dtype=d) for v, d in ((7, torch.int16), (-1.5, torch.float64))]
    plain = {"a": (1, (2,), []), "tensor": [None, True, 2**62, -0.1, float("inf"), "ö"], "": {}}
    layer = Kept()
    layer.extra = {**plain, "tensors": (*values, layer.weight.detach()[:, 3])}
    method = Naive()
    method.attach(nn.Sequential(nn.Flatten(), layer), task_aware=False)
    save_memory(method, tmp_path / "memory")
    other = Kept()
    load_memory(Naive(), tmp_path / "memory", model=nn.Sequential(nn.Flatten(), other))
    tensors = other.extra.pop("tensors")
    assert other.extra == plain
    for found, expected in zip(tensors, layer.extra["tensors"], strict=True):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)


def test_a_method_of_the_user_s(tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class MySettings(MethodSettings):
        size: int = 3
        function: Any = len
        generator: Any = None
        more: Any = None

    class Mine(Method):
        settings_type = MySettings

    objects = {"generator": VAEGenerator(latent=2), "more": {"other": torch.ones(2)}}
    method, model = Mine(function=max, **objects), network()
    method.attach(model, task_aware=False)
    save_memory(method, tmp_path / "memory")
    settings = json.loads(parts((tmp_path / "memory").read_bytes())[0]["__metadata__"]["memory"])
    assert settings["settings"] == {
        "memory_budget": None,
        "size": 3,
        "function": "<builtin_function_or_method>",
        "generator": {"VAEGenerator": VAESettings(latent=2).to_dict()},
        "more": {"other": [1.0, 1.0]},
    }
    load_memory(copy.deepcopy(method), tmp_path / "memory", model=model)
    with pytest.raises(CheckpointError, match="size=3"):
        load_memory(Mine(size=4, function=max, **objects), tmp_path / "memory", model=model)
