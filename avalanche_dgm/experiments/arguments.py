"""The arguments of the command line. Only argparse is imported, so that ``--help`` is fast."""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.experiments.config import ExperimentConfig, TrainerSettings
from avalanche_dgm.settings import describe_settings

#: Reference methods with the option ``memory_budget``.
BUFFERS = ("replay", "der++")
#: The default methods of `compare`.
COMPARED = ("naive", "dgr", "dgdmn")
_SETTINGS = (
    *("model", "n_experiences", "epochs", "until", "batch_size", "lr", "optimizer", "schedule"),
    *("hidden", "dropout", "paper", "fast", "quality", "evaluate_on", "validation_fraction"),
    "every_epoch",
)
_DATA = ("data_root", "download")
#: Fields whose options have another name.
_FLAGS = {"n_experiences": "experiences"}

_EPILOG = (
    "Every setting of a file is also an option, such as --method_options.stm_size 3, --model my.Net"
    " --model.init_args.width 64 or --trainer.devices 2. Options override the file."
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {self.prog} --help)")

    def print_help(self, file: Any = None) -> None:
        # argparse ignores errors of writing.
        print(self.format_help(), end="", file=file)


def build_parser() -> argparse.ArgumentParser:
    """Makes the parser, whose result has the command's name as ``command``.

    Options of a run's settings and their help texts come from `ExperimentConfig`. The parser raises
    ``ConfigError`` where argparse would print its usage and exit.
    """
    parser = _Parser(
        prog="avalanche-dgm",
        description="Train generative memories and reference methods on streams of images.",
    )
    parser.add_argument("--version", action=_Version, help="print versions and exit")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, text: str, **more: Any) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = commands.add_parser(name, help=text, **more)
        command.set_defaults(command=name)
        return command

    for name, usual, text in (
        ("run", ("dgdmn",), "train a method on a stream"),
        ("compare", COMPARED, "train several methods and compare them in a table"),
    ):
        command = add(name, text, epilog=_EPILOG)
        _add_settings(command, " ".join(usual))
        _add_running(command)
        command.add_argument(
            "--equal-bytes",
            nargs="*",
            choices=BUFFERS,
            metavar="BUFFER",
            help="for each method, add a buffer of real images of the same size: replay (default),"
            " der++, or both",
        )
        known = [option for action in command._actions for option in action.option_strings]
        command.set_defaults(usual=usual, options=known)

    demo = add("demo", "a demonstration in about two minutes, without a download")
    _add_running(demo)
    _add_fields(demo, ExperimentConfig, "seed", "fast")

    paper = add("paper", "reproduce figures and tables of the papers")
    paper.add_argument(
        "exhibits",
        nargs="*",
        metavar="NAME",
        help="such as kamra2017-fig4, fig4 or all; without a name, or with list, they are listed",
    )
    paper.add_argument(
        "--scale",
        type=float,
        metavar="F",
        help="fraction of the images and of the memory (default: 1; 0.01 with --fast)",
    )
    paper.add_argument("--methods", nargs="+", metavar="METHOD", help="only these methods or rows")
    paper.add_argument(
        "--defaults",
        action="store_true",
        help="this package's defaults in place of the paper's settings",
    )
    _add_seeds(paper)
    _add_fields(paper, ExperimentConfig, "fast", *_DATA)
    _add_running(paper)

    workspace = add("workspace", "set up a view of the panels in Weights & Biases")
    workspace.add_argument(
        "project", nargs="?", metavar="ENTITY/PROJECT", help="without it the view is printed"
    )
    workspace.add_argument(
        "--name", default="Memories", help="name of the view (default: %(default)s)"
    )

    report = add("report", "make an HTML page that compares runs")
    report.add_argument(
        "runs",
        nargs="*",
        type=Path,
        default=[Path("runs")],
        metavar="RUN",
        help="folders with runs (default: runs)",
    )
    report.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="default: report.html in RUN, or in the working directory for several",
    )
    report.add_argument("--title", metavar="T", help="heading (default: methods and streams)")

    options = add("options", "list the settings of a method or a stream")
    options.add_argument("of", metavar="METHOD", help="or a stream; see 'list'")
    _add_plugin(options)
    _add_plugin(add("list", "list methods, streams, recipes and figures of the papers"))
    return parser


def _add_fields(parser: argparse._ActionsContainer, kind: type, *names: str) -> None:
    """Adds options for fields of a dataclass, with their types and descriptions."""
    texts, hints = describe_settings(kind), get_type_hints(kind)
    for name in names:
        kinds = get_args(hints[name]) or (hints[name],)
        number = next((one for one in (bool, int, float) if one in kinds), str)
        # Python's option -OO leaves no docstrings.
        text = " ".join(texts.get(name, "").replace("``", "").split())
        text = text.replace("%", "%%").rstrip(".")
        options: dict[str, Any] = {"dest": name, "help": text[:1].lower() + text[1:]}
        if number is bool:
            options["action"] = "store_true"
        else:
            options["type"] = _devices if name == "devices" else number
            options["metavar"] = {int: "N", float: "X", str: "NAME"}[number]
        if ... in kinds:
            options["nargs"] = "+"
        parser.add_argument(f"--{_FLAGS.get(name, name).replace('_', '-')}", **options)


def _add_plugin(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help="a Python module that registers methods; may be repeated",
    )


def _add_seeds(parser: argparse._ActionsContainer) -> None:
    _add_fields(parser, ExperimentConfig, "seed")
    parser.add_argument("--seeds", type=int, metavar="N", help="number of seeds (default: 1)")


class _Once(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        if getattr(namespace, self.dest) is not None:
            raise argparse.ArgumentError(
                self, "given twice. Name one file as the 'base' of the other."
            )
        setattr(namespace, self.dest, values)


def _add_settings(parser: argparse.ArgumentParser, usual: str) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE",
        action=_Once,
        help="a YAML file, or the name of a recipe; see 'list'",
    )
    _add_plugin(parser)
    settings = parser.add_argument_group("settings (defaults depend on the stream)")
    settings.add_argument(
        "--method",
        "--methods",
        dest="methods",
        nargs="+",
        metavar="METHOD",
        help=f"one or more names from 'list', or class paths (default: {usual})",
    )
    settings.add_argument(
        "--stream", help="a name from 'list', or a class path (default: sklearn-digits)"
    )
    _add_seeds(settings)
    _add_fields(settings, ExperimentConfig, *_SETTINGS)
    for flag, of, example in (
        ("--set", "method", "stm_size=3"),
        ("--stream-set", "stream", "test_fraction=0.3"),
    ):
        settings.add_argument(
            flag,
            action="append",
            default=[],
            type=_pair,
            metavar="KEY=VALUE",
            help=f"an option of the {of}, such as {example}; may be repeated",
        )
    settings.add_argument("--dataset", metavar="NAME", help="data set of the stream latent-split")
    settings.add_argument(
        "--case", type=int, metavar="N", help="case of the stream latent-split, 1 to 4"
    )
    settings.add_argument(
        "--share", type=float, metavar="F", help="fraction of samples that is stored"
    )
    _add_fields(parser.add_argument_group("data"), ExperimentConfig, *_DATA)


def _add_running(parser: argparse.ArgumentParser) -> None:
    running = parser.add_argument_group("running")
    running.add_argument(
        "--print-config",
        action="store_true",
        help="print the complete config as YAML and exit",
    )
    _add_fields(running, ExperimentConfig, "device")
    running.add_argument("--threads", type=int, metavar="N", help="PyTorch's threads")
    running.add_argument(
        "--out", type=Path, default=Path("runs"), metavar="FOLDER", help="default: %(default)s"
    )
    running.add_argument("--name", help="name of this run's folder in --out")
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
    either = running.add_mutually_exclusive_group()
    either.add_argument("--resume", action="store_true", help="continue an interrupted run")
    either.add_argument("--overwrite", action="store_true", help="replace an earlier run")
    running.add_argument("--quiet", action="store_true", help="print only the table")
    trainer = parser.add_argument_group("training on a Lightning Trainer")
    _add_fields(trainer, ExperimentConfig, "backend")
    _add_fields(trainer, TrainerSettings, *(f.name for f in fields(TrainerSettings)))


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


def _pair(text: str) -> str:
    key, equals, _ = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"'{text}' is not KEY=VALUE, such as stm_size=3")
    return text


def _read_value(text: str) -> Any:
    """A value as JSON or a Python tuple if it is valid, otherwise as text."""
    words = {"none": None, "true": True, "false": False}
    try:
        if text.startswith("("):
            return list(ast.literal_eval(text))
        return words[text.lower()] if text.lower() in words else json.loads(text)
    except (ValueError, SyntaxError, TypeError):
        return text


def read_overrides(words: Sequence[str], known: Collection[str]) -> dict[str, Any]:
    """Reads ``--any.option value``, or ``--any.option=value``, into nested settings.

    Args:
        words: Arguments of the command line.
        known: The existing options, up to the first dot.

    Raises:
        ConfigError: An option is unknown or has no value.
    """
    values: dict[str, Any] = {}
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
        place = values
        for part in above:
            if not isinstance(place.setdefault(part, {}), dict):
                # A class path that was given before its arguments.
                place[part] = {"class_path": place[part]}
            place = place[part]
        place[last] = _read_value(text)
    return values
