"""What a method tells of its work."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Record:
    """What a method did, for metrics and reports.

    Attributes:
        replayed: Samples drawn for the learner in the current experience.
        histogram: How often each label was replayed in the current experience.
        stm_occupancy: Tasks that wait for the next sleep.
        sleeps: Consolidations so far.
        sleep_seconds: Seconds asleep so far.
        phase_seconds: Seconds of each phase of the current experience, by name.
    """

    replayed: int = 0
    histogram: dict[int, int] = field(default_factory=dict)
    stm_occupancy: int = 0
    sleeps: int = 0
    sleep_seconds: float = 0.0
    phase_seconds: dict[str, float] = field(default_factory=dict)
