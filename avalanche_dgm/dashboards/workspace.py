"""A Weights & Biases workspace with the panels of this package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from avalanche_dgm.dashboards import keys
from avalanche_dgm.errors import AvalancheDGMError, ConfigError


@dataclass(frozen=True)
class Panel:
    """A panel.

    Attributes:
        title: Title.
        kind: ``"lines"`` for scalars over an axis, ``"media"`` for images, ``"table"`` for the
            last state of a table.
        keys: Keys of the values; for ``"lines"`` a key with ``*`` is a regular expression.
        title_y: Label of the y axis.
    """

    title: str
    kind: str
    keys: tuple[str, ...]
    title_y: str = ""

    @property
    def axis(self) -> str:
        """The axis of the keys."""
        return keys.axis_of(self.keys[0])


def _of_stream(*names: str) -> tuple[str, ...]:
    return tuple(f"{keys.STREAM}{name}" for name in names)


#: Sections and their panels, from top to bottom.
LAYOUT: dict[str, tuple[Panel, ...]] = {
    "What is known": (
        Panel("Average accuracy", "lines", _of_stream("average_accuracy"), "test accuracy"),
        Panel("Accuracy of each experience", "lines", ("accuracy/experience_.*",), "test accuracy"),
        Panel("Accuracy matrix", "media", (keys.MATRIX,)),
        Panel("Forgetting", "lines", _of_stream("forgetting"), "accuracy lost"),
        Panel("Transfer", "lines", _of_stream("backward_transfer", "forward_transfer"), "accuracy"),
        Panel(
            "While learning",
            "lines",
            _of_stream("learning_accuracy", "average_anytime_accuracy", "retention"),
        ),
    ),
    "What is remembered": (
        Panel("Samples of every class", "media", (keys.SAMPLES,)),
        Panel("Reconstructions", "media", (keys.RECONSTRUCTIONS,)),
        Panel("Samples over time", "table", (keys.SAMPLES_TABLE,)),
        Panel("Replayed labels", "media", (keys.REPLAY_LABELS,)),
        Panel("Error of reconstructions", "lines", (keys.RECONSTRUCTION_ERROR,), "squared error"),
        Panel("Latents (t-SNE)", "media", (keys.LATENTS,)),
    ),
    "How it is kept": (
        Panel("Bytes of the memory", "lines", (keys.MEMORY_BYTES,), "bytes"),
        Panel("Tasks that wait for sleep", "lines", (keys.STM_OCCUPANCY,), "tasks"),
        Panel("Sleep", "lines", (keys.SLEEP_SECONDS,), "seconds so far"),
        Panel("Stored samples", "lines", (keys.MEMORY_STORED,), "samples"),
        Panel("Use of masks", "media", (keys.MASKS,)),
        Panel("Capacity of the generator", "lines", (keys.CAPACITY,), "times the first"),
    ),
    "What it costs": (
        Panel("Learning an experience", "lines", (keys.TIME_LEARN, keys.TIME_TEST), "seconds"),
        Panel("Phases", "lines", ("time/phase/.*",), "seconds"),
        Panel("Speed", "lines", (keys.SAMPLES_PER_SECOND,), "samples a second"),
        Panel("Loss", "lines", (keys.TRAIN_LOSS,), "loss"),
        Panel("Accuracy on batches", "lines", (keys.TRAIN_ACCURACY,), "accuracy"),
        Panel("Replayed samples", "lines", (keys.REPLAYED,), "samples"),
    ),
}


def build_workspace(project: str, *, entity: str, name: str = "Memories") -> Any:
    """Creates a workspace; its ``save()`` uploads it to the project.

    Args:
        project: Name of the W&B project.
        entity: The user or team that owns the project.
        name: Name of the view.

    Returns:
        A ``wandb_workspaces.workspaces.Workspace``.

    Raises:
        ConfigError: The package ``wandb-workspaces`` is not installed.
    """
    try:
        from wandb_workspaces import workspaces
        from wandb_workspaces.reports import v2
    except ImportError as error:
        raise ConfigError(
            "A W&B workspace needs the package wandb-workspaces, which is not installed: pip"
            " install 'avalanche-dgm[workspace]'."
        ) from error

    def build(panel: Panel) -> Any:
        if panel.kind == "media":
            return v2.MediaBrowser(title=panel.title, media_keys=list(panel.keys), num_columns=1)
        if panel.kind == "table":
            return v2.WeavePanelSummaryTable(table_name=panel.keys[0])
        expression = panel.keys[0] if "*" in panel.keys[0] else None
        return v2.LinePlot(
            title=panel.title,
            x=panel.axis,
            y=[] if expression else list(panel.keys),
            metric_regex=expression,
            title_x="updates" if panel.axis == keys.STEP else f"{panel.axis}s so far",
            title_y=panel.title_y or None,
        )

    sections = [
        workspaces.Section(name=title, panels=[build(panel) for panel in panels], is_open=True)
        for title, panels in LAYOUT.items()
    ]
    return workspaces.Workspace(entity=entity, project=project, name=name, sections=sections)


def save_workspace(project: str, *, entity: str, name: str = "Memories") -> str:
    """Uploads the workspace to a project.

    Args:
        project: Name of the W&B project.
        entity: The user or team that owns the project.
        name: Name of the view.

    Returns:
        The workspace's URL.

    Raises:
        ConfigError: The package ``wandb-workspaces`` is not installed.
        AvalancheDGMError: The upload failed.
    """
    workspace = build_workspace(project, entity=entity, name=name)
    try:
        workspace.save()
    except Exception as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise AvalancheDGMError(
            f"W&B did not accept the workspace: {type(error).__name__}: {reason}. Log in with"
            " 'wandb login', and check the names of entity and project."
        ) from error
    return str(workspace.url)


def outline() -> str:
    """The layout as text: sections, panels, keys and axes."""
    lines = []
    for title, panels in LAYOUT.items():
        lines.append(title)
        lines += [
            f"  {panel.title:<28} {panel.kind:<6} {', '.join(panel.keys)} over {panel.axis}"
            for panel in panels
        ]
    return "\n".join(lines)
