"""Kills runs at several moments and lets them go on: FOLDER."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import strategy_cases as cases
import torch

from avalanche_dgm.lightning.strategies import run_on_trainer

#: Each in the second experience.
MOMENTS = ("training", "testing", "saving", "saved")


def run(folder, moment, result=None, **options):
    """Runs to the end, or to a moment."""
    benchmark = cases.digits()
    strategy = cases.build("both", cases.dropout)
    if moment in ("training", "testing"):
        cases.Killing.moment = moment
    strategy.plugins.insert(0, cases.Killing())
    if moment in ("saving", "saved"):
        replace, saves = os.replace, []

        def dying(*args):
            saves.append(args)
            if len(saves) == 2 and moment == "saved":
                replace(*args)
            if len(saves) == 2:
                cases.die()
            replace(*args)

        os.replace = dying
    results = run_on_trainer(
        strategy,
        cases.stream(benchmark),
        test_stream=benchmark.test_stream,
        trainer={"accelerator": "cpu", "enable_progress_bar": False},
        checkpoint_dir=folder,
        **options,
    )
    if result is not None:
        found = [cases.values(r) for r in results]
        torch.save({"weights": cases.weights(strategy.model), "results": found}, result)


def apart(*args, **options):
    """Runs in a process of its own; returns the signal or status that it ended with."""
    pid = os.fork()
    if not pid:
        try:
            run(*args, **options)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main():
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    ends = {"never": apart(None, "never", folder / "never.pt")}
    for moment in MOMENTS:
        ends[moment] = apart(folder / moment, moment)
        ends[f"{moment}, resumed"] = apart(
            folder / moment, "never", folder / f"{moment}.pt", resume=True
        )
    torch.save(ends, folder / "ends.pt")


if __name__ == "__main__":
    main()
