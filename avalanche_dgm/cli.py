"""The command ``avalanche-dgm``.

Only argparse is imported at the top: ``--help``, ``--version`` and ``list`` answer at once.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from avalanche_dgm.errors import AvalancheDGMError, ConfigError

if TYPE_CHECKING:
    from avalanche_dgm.experiments.config import ExperimentConfig

_DEMO = ("naive", "dgr", "dgdmn")
_USAGE_ERROR = 2
_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: The arguments after the program's name; those of the process by default.

    Returns:
        The exit status: 0, 2 for an error of ours or a wrong argument, 130 after Ctrl-C.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = _parser().parse_args(given)
        arguments.given = given
        command: Callable[[argparse.Namespace], None] = arguments.command
        command(arguments)
    except SystemExit as end:  # argparse: --help, --version
        return int(end.code or 0)
    except AvalancheDGMError as error:
        print(f"avalanche-dgm: error: {' '.join(str(error).split())}", file=sys.stderr)
        return _USAGE_ERROR
    except KeyboardInterrupt:
        print(f"\navalanche-dgm: interrupted. {_how_to_continue(given)}", file=sys.stderr)
        return _INTERRUPTED
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="avalanche-dgm",
        description="Learn streams of images with generative memories, beside reference methods.",
    )
    parser.add_argument("--version", action=_Version, help="print versions and exit")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run one method over a stream")
    run.add_argument("--method", default="dgdmn", help="see 'list' (default: %(default)s)")
    _add_settings(run)
    _add_running(run)
    run.set_defaults(command=_run)

    compare = commands.add_parser("compare", help="run several methods into one table")
    compare.add_argument(
        "--methods", nargs="+", default=list(_DEMO), metavar="METHOD", help="see 'list'"
    )
    _add_settings(compare)
    _add_running(compare)
    compare.set_defaults(command=_compare)

    demo = commands.add_parser(
        "demo", help="see it work in under two minutes: embedded digits, nothing downloaded"
    )
    _add_running(demo)
    demo.add_argument("--seed", type=int, default=0, metavar="N")
    demo.add_argument("--fast", action="store_true", help="tiny networks, one epoch")
    demo.set_defaults(command=_demo)

    paper = commands.add_parser("paper", help="run the experiments of the DGDMN paper")
    paper.add_argument("figure", nargs="?", help="such as fig4; without it, they are listed")
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
    _add_data(paper)
    _add_running(paper)
    paper.set_defaults(command=_paper)

    listing = commands.add_parser("list", help="list methods, streams and figures of the paper")
    listing.set_defaults(command=_list)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    settings = parser.add_argument_group("settings (defaults depend on the stream)")
    settings.add_argument("--stream", default="sklearn-digits", help="default: %(default)s")
    settings.add_argument("--experiences", type=int, metavar="N", help="length of the stream")
    settings.add_argument("--seed", type=int, default=0, metavar="N", help="first seed")
    settings.add_argument("--seeds", type=int, default=1, metavar="N", help="number of seeds")
    settings.add_argument("--epochs", type=int, metavar="N")
    settings.add_argument("--batch-size", type=int, metavar="N")
    settings.add_argument("--lr", type=float, metavar="RATE")
    settings.add_argument("--optimizer", metavar="NAME", help="adam, rmsprop or sgd")
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
    settings.add_argument("--paper", action="store_true", help="the paper's settings")
    settings.add_argument("--fast", action="store_true", help="tiny networks, one epoch")
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
    running.add_argument("--device", default="cpu", help="cpu, cuda or auto (default: cpu)")
    running.add_argument("--threads", type=int, metavar="N", help="threads of PyTorch")
    running.add_argument("--out", type=Path, default=Path("runs"), metavar="FOLDER")
    running.add_argument("--name", help="folder of this run below --out")
    running.add_argument("--resume", action="store_true", help="continue an interrupted run")
    running.add_argument("--overwrite", action="store_true", help="replace an earlier run")
    running.add_argument("--quiet", action="store_true", help="no progress, only the table")


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


def _run(arguments: argparse.Namespace) -> None:
    name = arguments.name or _default_name(arguments, arguments.method)
    _execute(arguments, name, {arguments.method: _configs(arguments, arguments.method)})


def _compare(arguments: argparse.Namespace) -> None:
    if arguments.set and len(arguments.methods) > 1:
        from avalanche_dgm.experiments.methods import METHODS

        keys = _options(arguments.set)
        known = {m: set(METHODS[m].options()) for m in arguments.methods if m in METHODS}
        for key in keys:
            if known and not any(key in names for names in known.values()):
                raise ConfigError(f"None of these methods has an option '{key}'.")
    name = arguments.name or _default_name(arguments, "compare")
    _execute(arguments, name, {m: _configs(arguments, m) for m in arguments.methods})


def _demo(arguments: argparse.Namespace) -> None:
    from avalanche_dgm.experiments.config import ExperimentConfig

    arguments.overwrite = not arguments.resume
    configs = {
        method: [
            ExperimentConfig.create(
                method,
                "sklearn-digits",
                seed=arguments.seed,
                device=arguments.device,
                fast=arguments.fast,
            )
        ]
        for method in _DEMO
    }
    print(
        "Ten handwritten digits are learned one after the other. When the tenth is learned, the\n"
        "first are long gone: no image of them was kept. What does each method still know?",
        flush=True,
    )
    _execute(arguments, arguments.name or "demo", configs)


def _paper(arguments: argparse.Namespace) -> None:
    from avalanche_dgm.experiments import paper

    if arguments.figure is None:
        print(paper.listing())
        return
    figure = paper.figure(arguments.figure)
    configs = figure.configs(
        scale=arguments.scale,
        seeds=range(arguments.seed, arguments.seed + _count(arguments.seeds)),
        methods=arguments.methods,
        data_root=arguments.data_root,
        download=arguments.download,
        device=arguments.device,
    )
    name = arguments.name or f"paper-{arguments.figure}-scale{arguments.scale:g}"
    print(f"{figure.title}. In the paper: {figure.shows}\n", flush=True)
    _execute(arguments, name, configs)


def _list(arguments: argparse.Namespace) -> None:
    from avalanche_dgm.experiments import paper
    from avalanche_dgm.experiments.methods import METHODS
    from avalanche_dgm.experiments.streams import stream_descriptions

    for title, lines in (
        ("Methods", {name: method.description for name, method in METHODS.items()}),
        ("Streams", stream_descriptions()),
        ("Figures of the paper", {f.name: f.title for f in paper.FIGURES}),
    ):
        width = max(map(len, lines))
        print(f"{title}:")
        for name, text in lines.items():
            print(f"  {name:<{width}}  {text}")


def _configs(arguments: argparse.Namespace, method: str) -> list[ExperimentConfig]:
    from avalanche_dgm.experiments.config import ExperimentConfig
    from avalanche_dgm.experiments.methods import METHODS

    options = _options(arguments.set)
    if hasattr(arguments, "methods") and len(arguments.methods) > 1 and method in METHODS:
        known = METHODS[method].options() if options else []
        options = {key: value for key, value in options.items() if key in known}
    config = ExperimentConfig.create(
        method,
        arguments.stream,
        paper=arguments.paper,
        fast=arguments.fast,
        seed=arguments.seed,
        n_experiences=arguments.experiences,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        lr=arguments.lr,
        optimizer=arguments.optimizer,
        hidden=arguments.hidden,
        dropout=arguments.dropout,
        data_root=arguments.data_root,
        download=arguments.download,
        device=arguments.device,
        method_options=options,
        stream_options=_options(arguments.stream_set),
    )
    return [config.replace(seed=arguments.seed + i) for i in range(_count(arguments.seeds))]


def _execute(
    arguments: argparse.Namespace, name: str, configs: dict[str, list[ExperimentConfig]]
) -> None:
    """Runs configs and prints the table."""
    from avalanche_dgm.experiments.provenance import command_line
    from avalanche_dgm.experiments.session import Session

    if arguments.threads is not None:
        import torch

        torch.set_num_threads(_count(arguments.threads, "threads"))
    session = Session(
        folder=arguments.out / name,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        progress=not arguments.quiet,
        command=command_line(arguments.given),
    )
    with warnings.catch_warnings():
        # Avalanche's dependencies greet with warnings that no user can act on.
        warnings.filterwarnings("ignore", module="qpsolvers")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        results = session.run(configs)
        print(session.conclude(results))


def _default_name(arguments: argparse.Namespace, what: str) -> str:
    parts = [what, arguments.stream]
    parts += ["paper"] if arguments.paper else []
    parts += ["fast"] if arguments.fast else []
    parts += [f"seed{arguments.seed}"] if arguments.seed else []
    return "-".join(parts)


def _options(pairs: Sequence[str]) -> dict[str, Any]:
    """Reads KEY=VALUE pairs; a value is read as JSON if it is, else as text."""
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"'{pair}' is not KEY=VALUE, such as stm_size=3.")
        words = {"none": None, "true": True, "false": False}
        try:
            value = words[text.lower()] if text.lower() in words else json.loads(text)
        except ValueError:
            value = text
        options[key.replace("-", "_")] = value
    return options


def _count(value: int, name: str = "seeds") -> int:
    if value < 1:
        raise ConfigError(f"--{name} is {value}; at least 1 is needed.")
    return value


def _how_to_continue(given: Sequence[str]) -> str:
    from avalanche_dgm.experiments.provenance import command_line

    resumed = [*given, *([] if "--resume" in given else ["--resume"])]
    resumed = [a for a in resumed if a != "--overwrite"]
    return f"Finished experiences are saved; continue with: {command_line(resumed)}"
