"""The arguments of the command line. Only argparse is imported: ``--help`` answers at once."""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

from avalanche_dgm.errors import ConfigError

#: What `compare` runs if no methods are named.
COMPARED = ("naive", "dgr", "dgdmn")


_EPILOG = (
    "Any setting of a file is an option, too, such as --method_options.stm_size 3, --model my.Net"
    " --model.init_args.width 64 or --trainer.devices 2. Options outrank the file."
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {self.prog} --help)")


def build_parser() -> argparse.ArgumentParser:
    """Makes the parser; ``command`` of what it returns names the command.

    The parser raises ``ConfigError`` where argparse would print its usage and exit.
    """
    parser = _Parser(
        prog="avalanche-dgm",
        description="Learn streams of images with generative memories, beside reference methods.",
    )
    parser.add_argument("--version", action=_Version, help="print versions and exit")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    for name, usual, what in (
        ("run", ("dgdmn",), "run a method, a recipe or a file over a stream"),
        ("compare", COMPARED, "run several methods into one table"),
    ):
        command = commands.add_parser(name, help=what, epilog=_EPILOG)
        _add_settings(command, " ".join(usual))
        _add_running(command)
        command.add_argument(
            "--equal-bytes",
            action="store_true",
            help="beside each method, a replay of real images in as many bytes",
        )
        known = [text for action in command._actions for text in action.option_strings]
        command.set_defaults(command=name, usual=usual, options=known)

    demo = commands.add_parser(
        "demo", help="see it work in under two minutes: embedded digits, nothing downloaded"
    )
    _add_running(demo)
    demo.add_argument("--seed", type=int, default=0, metavar="N")
    _add_fast(demo)
    demo.set_defaults(command="demo")

    paper = commands.add_parser("paper", help="run the experiments of the papers")
    paper.add_argument(
        "figure", nargs="?", help="such as fig4 or altm-fig1; without it, they are listed"
    )
    paper.add_argument(
        "--scale",
        type=float,
        default=1.0,
        metavar="F",
        help="fraction of the images and of the memory (default: 1)",
    )
    paper.add_argument("--methods", nargs="+", metavar="METHOD", help="only these methods")
    paper.add_argument("--seed", type=int, default=0, metavar="N")
    paper.add_argument("--seeds", type=int, default=1, metavar="N")
    _add_fast(paper)
    _add_data(paper)
    _add_running(paper)
    paper.set_defaults(command="paper")

    workspace = commands.add_parser(
        "workspace", help="lay the panels out in a project of Weights & Biases"
    )
    workspace.add_argument(
        "project", nargs="?", metavar="ENTITY/PROJECT", help="without it, the layout is printed"
    )
    workspace.add_argument("--name", default="Memories", help="of the view (default: %(default)s)")
    workspace.set_defaults(command="workspace")

    report = commands.add_parser("report", help="make one HTML page about runs")
    report.add_argument(
        "runs",
        nargs="*",
        type=Path,
        default=[Path("runs")],
        metavar="RUN",
        help="folders of runs, or folders above them (default: runs)",
    )
    report.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="default: report.html in RUN, or here if there are several",
    )
    report.add_argument("--title", metavar="T", help="heading (default: methods and streams)")
    report.set_defaults(command="report")

    options = commands.add_parser("options", help="list the settings of a method or a stream")
    options.add_argument("of", metavar="METHOD", help="or a stream; see 'list'")
    _add_plugin(options)
    options.set_defaults(command="options")

    listing = commands.add_parser(
        "list", help="list methods, streams, recipes and figures of the papers"
    )
    _add_plugin(listing)
    listing.set_defaults(command="list")
    return parser


def _add_plugin(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help="a Python module, here or installed, that registers methods; may be repeated",
    )


def _add_fast(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--fast", action="store_true", help="tiny networks, one epoch")


def _add_settings(parser: argparse.ArgumentParser, usual: str) -> None:
    parser.add_argument(
        "--config", metavar="FILE", help="a YAML file, or the name of a recipe; see 'list'"
    )
    _add_plugin(parser)
    settings = parser.add_argument_group("settings (defaults depend on the stream)")
    settings.add_argument(
        "--method",
        "--methods",
        dest="methods",
        nargs="+",
        metavar="METHOD",
        help=f"one or several, see 'list', or a class path (default: {usual})",
    )
    settings.add_argument("--stream", help="see 'list', or a class path (default: sklearn-digits)")
    settings.add_argument(
        "--model", metavar="NAME", help="a network, or a class path (default: the stream's)"
    )
    settings.add_argument(
        "--experiences",
        dest="n_experiences",
        type=int,
        metavar="N",
        help="length of the stream",
    )
    settings.add_argument("--seed", type=int, metavar="N", help="first seed (default: 0)")
    settings.add_argument("--seeds", type=int, metavar="N", help="number of seeds (default: 1)")
    settings.add_argument("--epochs", type=int, metavar="N")
    settings.add_argument("--batch-size", type=int, metavar="N")
    settings.add_argument("--lr", type=float, metavar="RATE")
    settings.add_argument("--optimizer", metavar="NAME", help="adam, rmsprop or sgd")
    settings.add_argument(
        "--schedule", metavar="NAME", help="constant, or cosine: the rate falls in each experience"
    )
    settings.add_argument("--hidden", type=int, nargs="+", metavar="UNITS")
    settings.add_argument("--dropout", type=float, metavar="P")
    settings.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the method, such as stm_size=3; may be repeated",
    )
    settings.add_argument(
        "--stream-set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the stream, such as test_fraction=0.3; may be repeated",
    )
    settings.add_argument("--dataset", metavar="NAME", help="of the stream, such as latent-split's")
    settings.add_argument(
        "--case", type=int, metavar="N", help="of the stream latent-split, 1 to 4"
    )
    settings.add_argument("--share", type=float, metavar="F", help="of the samples that is stored")
    settings.add_argument("--paper", action="store_true", help="the paper's settings")
    _add_fast(settings)
    settings.add_argument(
        "--quality",
        action="store_true",
        help="compare samples of a GAN memory with real ones after each experience",
    )
    _add_data(parser)


def _add_data(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data-root",
        metavar="FOLDER",
        help="folder of the data sets (default: the variable AVALANCHE_DGM_DATA)",
    )
    data.add_argument("--download", action="store_true", help="fetch what is absent")


def _add_running(parser: argparse.ArgumentParser) -> None:
    running = parser.add_argument_group("running")
    running.add_argument(
        "--print-config",
        action="store_true",
        help="print the YAML file of what would run, and run nothing",
    )
    running.add_argument(
        "--device", help="cpu, cuda or auto (default: cpu; with --backend lightning: auto)"
    )
    running.add_argument("--threads", type=int, metavar="N", help="threads of PyTorch")
    running.add_argument("--out", type=Path, default=Path("runs"), metavar="FOLDER")
    running.add_argument("--name", help="folder of this run below --out")
    running.add_argument(
        "--log",
        nargs="+",
        default=["files"],
        metavar="PLACE",
        help="where panels go: files (in the run folder), wandb, tensorboard, or none",
    )
    running.add_argument(
        "--wandb-project", default="avalanche-dgm", metavar="NAME", help="default: %(default)s"
    )
    running.add_argument("--resume", action="store_true", help="continue an interrupted run")
    running.add_argument("--overwrite", action="store_true", help="replace an earlier run")
    running.add_argument("--quiet", action="store_true", help="no progress, only the table")
    _add_trainer(parser)


def _add_trainer(parser: argparse.ArgumentParser) -> None:
    trainer = parser.add_argument_group("training under a Lightning Trainer")
    trainer.add_argument(
        "--backend",
        choices=("avalanche", "lightning"),
        help="what trains (default: avalanche); lightning has the other options of this group",
    )
    trainer.add_argument(
        "--devices", type=_devices, metavar="N", help="devices of each node, or auto (default: 1)"
    )
    trainer.add_argument(
        "--accelerator", metavar="KIND", help="cpu, gpu, ... (default: that of --device)"
    )
    trainer.add_argument(
        "--strategy", metavar="NAME", help="ddp, ddp_spawn, ... (default: auto, ddp if several)"
    )
    trainer.add_argument("--num-nodes", type=int, metavar="N", help="machines (default: 1)")
    trainer.add_argument(
        "--precision", metavar="P", help="32-true, 16-mixed or bf16-mixed (default: 32-true)"
    )
    trainer.add_argument(
        "--accumulate", type=int, metavar="N", help="batches a step of the optimiser (default: 1)"
    )
    trainer.add_argument(
        "--clip", type=float, metavar="X", help="largest norm of all gradients together"
    )
    trainer.add_argument(
        "--save-every",
        type=int,
        metavar="N",
        help="steps between two saves within an experience (default: 1000)",
    )


def _devices(text: str) -> int | str:
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number nor auto") from error


class _Version(argparse.Action):
    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "nargs": 0})

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from avalanche_dgm.experiments.provenance import package_version

        print(
            f"avalanche-dgm {package_version('avalanche-dgm')}"
            f" (avalanche {package_version('avalanche-lib')}, torch {package_version('torch')},"
            f" python {sys.version.split()[0]})"
        )
        parser.exit()


def read_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Reads KEY=VALUE pairs; a value is read as JSON if it is, else as text.

    Args:
        pairs: Such as "stm_size=3", "labels=soft", "n_max=none".

    Raises:
        ConfigError: A pair has no equals sign.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"'{pair}' is not KEY=VALUE, such as stm_size=3.")
        options[key.replace("-", "_")] = _read_value(text)
    return options


def _read_value(text: str) -> Any:
    words = {"none": None, "true": True, "false": False}
    try:
        return words[text.lower()] if text.lower() in words else json.loads(text)
    except ValueError:
        return text


def read_overrides(words: Sequence[str], known: Collection[str]) -> dict[str, Any]:
    """Reads ``--any.option value``, or ``--any.option=value``, into nested settings.

    Args:
        words: Of the command line.
        known: The options that there are, in front of the first point.

    Raises:
        ConfigError: A word is no option, an option is unknown or has no value.
    """
    found: dict[str, Any] = {}
    left = list(words)
    while left:
        name, equals, text = left.pop(0).partition("=")
        first = name.partition(".")[0].replace("_", "-")
        if first not in known:
            near = difflib.get_close_matches(first, list(known), n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(f"unrecognized arguments: {name}.{hint}")
        if not equals:
            if not left or left[0].startswith("--"):
                raise ConfigError(f"{name} needs a value, such as {name} 3.")
            text = left.pop(0)
        *above, last = name.removeprefix("--").replace("-", "_").split(".")
        place = found
        for part in above:
            if not isinstance(place.setdefault(part, {}), dict):
                # A class path, given before its arguments.
                place[part] = {"class_path": place[part]}
            place = place[part]
        place[last] = _read_value(text)
    return found


def at_least_one(value: int, name: str) -> int:
    """Checks a number of things.

    Args:
        value: The number.
        name: Name of the argument, for the message.

    Raises:
        ConfigError: The number is below 1.
    """
    if value < 1:
        raise ConfigError(f"--{name} is {value}; at least 1 is needed.")
    return value
