"""What is looked at in two processes, and in one; two starts of a pair serve all tests."""

from pathlib import Path

import forked
from backends import MAIN, VARIANTS

#: Methods in `fit_stream`.
QUICK = ["naive", *MAIN]
MORE = sorted(VARIANTS)
#: Where a single process ends as well: no generator is trained, and the network draws nothing.
EQUAL = [
    "naive",
    "altm@plain",
    "ewc@plain",
    "latent@plain",
    "latent-alternating@plain",
    "pseudo-rehearsal@plain",
]
#: Strategies in `run_on_trainer`. With batches of an odd size, one process has a sample more.
EQUAL_STRATEGIES = ["naive@metrics", "replay", "ewc@odd", "lwf@odd", "si@odd", "latent", "pseudo"]
MORE_EQUAL_STRATEGIES = [
    *("gem", "agem@ordered", "mas", "gdumb", "scratch", "cwr", "lfl@simple", "schedule"),
    *("stopping", "ewc@growing", "lwf@heads", "naive@steps"),
]
#: They draw random numbers for each part of a batch, so they are equal in all processes only.
RANDOM_STRATEGIES = [
    *("naive@dropout", "naive@normed", "dgr", "dgdmn", "dgdmn-no-stm", "halves"),
    *("latent@normed", "latent-alternating@dropout", "dynamic", "dynamic-discriminator"),
]
_CHECKS = ["unused", "expected", "different data", "refused", "noise", "unseeded", "dgdmn"]

#: By the name of a pair: what it runs.
PAIRS = {
    "two": [*QUICK, *EQUAL[1:]]
    + [f"strategy:{n}" for n in (*EQUAL_STRATEGIES, *_CHECKS, "noise, unchecked")],
    "more": MORE
    + [f"strategy:{n}" for n in (*MORE_EQUAL_STRATEGIES, *RANDOM_STRATEGIES, "resumed", "learned")],
}

SCRIPT = Path(__file__).parent / "two_processes.py"


def start(
    folder: Path,
    devices: int,
    strategy: str,
    *names: str,
    fails: bool = False,
    timeout: int = 600,
    **variables: str,
) -> Path:
    """Runs `two_processes.py`, which leaves what it found in the folder."""
    variables = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **variables}
    # Lightning starts the other process from nothing.
    words = SCRIPT, folder, devices, strategy, *names
    done = forked.run(*words, timeout=timeout, **variables)
    assert (done.returncode != 0) == fails, done.stderr[-3000:]
    return folder
