"""Reads what an offline run of W&B wrote: its record file, and the media beside it."""

from __future__ import annotations

import json
import os
import struct
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import wandb
from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32768, 7
#: Launchers' names of a process, which must not leak into tests.
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


@contextmanager
def isolated(folder):
    """Lets W&B write into a folder only, whatever the environment says.

    W&B's service is its own: W&B names the running one in ``WANDB_SERVICE``, and a name that came
    back after its service had ended would stop every later run of this process.
    """
    wandb.teardown()
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("WANDB_")] + list(RANKS):
            patch.delenv(name, raising=False)
        for name in ("DIR", "DATA_DIR", "CACHE_DIR", "CONFIG_DIR", "ARTIFACT_DIR"):
            patch.setenv(f"WANDB_{name}", str(folder))
        patch.setenv("WANDB_SILENT", "true")
        # Whoever runs the tests may be logged in.
        patch.setenv("NETRC", str(Path(folder) / "netrc"))
        try:
            yield patch
        finally:
            wandb.teardown()


@dataclass
class Run:
    """An offline run.

    Attributes:
        folder: Its folder, with the media in ``files``.
        id: Its id.
        name: Its name.
        project: Its project.
        start: When it began, in nanoseconds.
        config: Hyper-parameters.
        history: What was logged, a row for each call of ``run.log``.
        summary: The last value of each key.
        axes: Keys and patterns, and the axis that they were said to lie on.
        artifacts: Artifacts but those that tables make.
        files: Paths below ``files`` that are to be uploaded.
    """

    folder: Path
    id: str = ""
    name: str = ""
    project: str = ""
    start: int = 0
    config: dict = field(default_factory=dict)
    history: list = field(default_factory=list)
    summary: dict = field(default_factory=dict)
    axes: dict = field(default_factory=dict)
    artifacts: list = field(default_factory=list)
    files: list = field(default_factory=list)

    def rows(self, key):
        """The rows that hold a key."""
        return [row for row in self.history if key in row]

    def curve(self, key, axis):
        """Points and values of a key."""
        return [(row[axis], row[key]) for row in self.rows(key)]

    def path(self, media):
        """The file of a picture or table, from what the history says of it."""
        return self.folder / "files" / media["path"]

    def table(self, key):
        """The last table of a key, with its pictures as paths: columns and rows."""
        last = next(a for a in reversed(self.tables) if f"{key}.table.json" in a.contents)
        content = json.loads(Path(last.contents[f"{key}.table.json"]).read_text())
        rows = [
            [last.contents[cell["path"]] if isinstance(cell, dict) else cell for cell in row]
            for row in content["data"]
        ]
        return content["columns"], rows

    tables: list = field(default_factory=list)


@dataclass
class Artifact:
    """A logged artifact: paths inside of it to files here, or to the addresses they refer to."""

    name: str
    type: str
    aliases: set
    metadata: dict
    contents: dict


def runs(folder):
    """All offline runs below a folder, the oldest first; they are over."""
    found = Path(folder).rglob("offline-run-*/run-*.wandb")
    return sorted(map(read, found), key=lambda run: run.start)


def read(path):
    """The run of a record file, once it is complete: a process of W&B's writes it."""
    run, waited = Run(path.parent), 0.0
    while all(record.WhichOneof("record_type") != "exit" for record in records(path)):
        assert waited < 10, f"{path} has no end"
        time.sleep(0.1)
        waited += 0.1
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.id, run.name = record.run.run_id, record.run.display_name
            run.project, run.start = record.run.project, record.run.start_time.ToNanoseconds()
            _put(run.config, record.run.config.update)
        elif kind == "config":
            _put(run.config, record.config.update)
        elif kind == "history":
            row = {}
            _put(row, record.history.item)
            run.history.append(row)
        elif kind == "summary":
            _put(run.summary, record.summary.update)
        elif kind == "metric":
            metric = record.metric
            run.axes[metric.name or metric.glob_name] = metric.step_metric
        elif kind == "files":
            run.files += [file.path for file in record.files.files]
        elif kind == "artifact":
            artifact = _artifact(record.artifact)
            (run.tables if artifact.type == "run_table" else run.artifacts).append(artifact)
    return run


def records(path):
    """The records of a file, as far as it is written: a log of LevelDB's, with a longer start."""
    data, position, parts = path.read_bytes(), 7, b""
    while position + HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        start = position + HEADER
        if kind == 0 or start + length > len(data):
            return
        parts, position = parts + data[start : start + length], start + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def _put(target, items):
    """Sets values by key, or by keys one inside the other."""
    for item in items:
        *outer, last = list(item.nested_key) or [item.key]
        inner = target
        for key in outer:
            if not isinstance(inner.get(key), dict):
                inner[key] = {}
            inner = inner[key]
        inner[last] = json.loads(item.value_json)


def _artifact(record):
    contents = {entry.path: entry.ref or entry.local_path for entry in record.manifest.contents}
    return Artifact(
        record.name, record.type, set(record.aliases), json.loads(record.metadata or "{}"), contents
    )
