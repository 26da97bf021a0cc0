"""The command ``avalanche-dgm``.

PyTorch and Avalanche are imported when a command runs, so that ``--help`` is fast.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avalanche_dgm.checks import whole
from avalanche_dgm.errors import AvalancheDGMError, ConfigError, StorageError
from avalanche_dgm.experiments.arguments import build_parser, read_overrides

if TYPE_CHECKING:
    from avalanche_dgm.experiments.planning import Configs
    from avalanche_dgm.experiments.runner import RunOptions

_USAGE_ERROR = 2
_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_NO_READER = 141  # 128 + SIGPIPE
_TERMINATED = 143  # 128 + SIGTERM
# Errors of writing; on Linux, `write` has the last one for a terminal that is gone.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: The arguments after the program's name; those of the process by default.

    Returns:
        The exit status: 0, 2 for an `AvalancheDGMError`, a wrong argument or an output that cannot
        be written, 130 after Ctrl-C, 141 if the output is a closed pipe, 143 after SIGTERM.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # Closed by the shell, as with `>&-`.
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - open until the end
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal or a pipe whose encoding lacks a character still gets the rest.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with _terminable():
            status = _main(list(sys.argv[1:] if argv is None else argv))
            sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError) and error.errno not in _UNWRITABLE:
            raise
        # Python must not flush once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return _NO_READER  # Whoever read the output, such as head, has ended.
        with suppress(OSError):
            print(f"avalanche-dgm: error: {_unwritable(error)}", file=sys.stderr, flush=True)
        return _USAGE_ERROR
    return status


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which batch systems and ``timeout`` send."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Lets SIGTERM interrupt the command like Ctrl-C."""

    def interrupt(number: int, frame: object) -> None:
        # A Trainer has another handler, which calls this one, and stops after its batch.
        if signal.getsignal(number) is interrupt:
            raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _unwritable(error: OSError) -> str:
    where = f"{error.filename}" if error.filename else "standard output, standard error or a file"
    return (
        f"Cannot write {where}: {error.strerror}. Files saved before are unchanged. Free disk"
        " space, or write to another place."
    )


def _main(given: Sequence[str]) -> int:
    arguments = argparse.Namespace(given=given, is_global_zero=True)
    try:
        with warnings.catch_warnings():
            # Warnings of Avalanche and its dependencies on which no user can act.
            warnings.filterwarnings("ignore", module="qpsolvers")
            # Not by a filter, which Avalanche would override.
            warnings.showwarning = _for_users(warnings.showwarning)
            _run_command(given, arguments)
    except SystemExit as end:
        # argparse: --help, --version; or a Trainer after SIGTERM.
        if end.code == _TERMINATED and arguments.is_global_zero:
            print(f"avalanche-dgm: terminated. {_how_to_continue(given)}", file=sys.stderr)
        return int(end.code or 0)
    except AvalancheDGMError as error:
        where = "" if arguments.is_global_zero else " in another process"
        text = " ".join(str(error).split())
        if isinstance(error, StorageError) and hasattr(arguments, "resume"):
            text += f" {_how_to_continue(given)}"
        print(f"avalanche-dgm: error{where}: {text}", file=sys.stderr)
        return _USAGE_ERROR
    except KeyboardInterrupt as signalled:
        terminated = isinstance(signalled, _Terminated)
        what = "terminated" if terminated else "interrupted"
        if arguments.is_global_zero:
            print(f"\navalanche-dgm: {what}. {_how_to_continue(given)}", file=sys.stderr)
        return _TERMINATED if terminated else _INTERRUPTED
    return 0


def _for_users(show: Callable[..., None]) -> Callable[..., None]:
    """Leaves out deprecations, and how to resume from Python."""

    def shown(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if not issubclass(category, DeprecationWarning) and "resume=True" not in str(message):
            show(message, category, *where, **more)

    return shown


def _run_command(given: Sequence[str], arguments: argparse.Namespace) -> None:
    parser = build_parser()
    if not given:
        parser.print_help()
        return
    _, arguments.more = parser.parse_known_args(given, namespace=arguments)
    if arguments.more and arguments.command not in ("run", "compare"):
        parser.error(f"unrecognized arguments: {' '.join(arguments.more)}")
    for module in getattr(arguments, "plugin", ()):
        _load_plugin(module)
    _COMMANDS[arguments.command](arguments)


def _load_plugin(name: str) -> None:
    """Imports a module that registers methods."""
    from avalanche_dgm.experiments.class_paths import import_module

    import_module(name, f"--plugin {name}")


def _run(arguments: argparse.Namespace) -> None:
    from avalanche_dgm.experiments import planning, recipes

    file = recipes.load(arguments.config) if arguments.config is not None else {}
    words = _words(arguments)
    layers = planning.layers_of(file, words)
    if "trainer" in words and planning.top(layers, "backend", "avalanche") != "lightning":
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in words["trainer"])
        raise ConfigError(f"{flags}: only a Trainer has such settings. Add --backend lightning.")
    configs = planning.plan(file, words, methods=arguments.usual)
    _execute(arguments, _default_name(arguments, configs), configs)


def _demo(arguments: argparse.Namespace) -> None:
    from avalanche_dgm.experiments import planning, recipes

    # The demo may be repeated, so it overwrites its folder.
    arguments.overwrite = not arguments.resume
    # Small networks do not benefit from a second thread.
    arguments.threads = arguments.threads or 1
    _execute(
        arguments,
        "demo",
        planning.plan(recipes.load("demo"), _words(arguments), methods=()),
        "Ten handwritten digits are learned one after the other, and no images are stored.\n"
        "How many of the digits does each method still recognise at the end?",
    )
    if arguments.is_global_zero and not arguments.print_config:
        folder = arguments.out / (arguments.name or "demo")
        print(f"\nOne page about all of it: avalanche-dgm report {folder}")


def _paper(arguments: argparse.Namespace) -> None:
    from avalanche_dgm import papers

    if arguments.exhibits in ([], ["list"]):
        print(papers.listing())
        return
    exhibits = papers.find(*arguments.exhibits)
    if arguments.name and len(exhibits) > 1:
        raise ConfigError("--name is for one figure or table, but several are given.")
    words = _words(arguments)
    seeds, first = words.pop("seeds", 1), words.pop("seed", 0)
    whole("--seeds", seeds)
    whole("--seed", first, least=0)
    for name in ("methods", "fast", "method_options", "stream_options"):
        words.pop(name, None)
    request = papers.Request(
        scale=arguments.scale,
        seeds=tuple(range(first, first + seeds)),
        only=tuple(arguments.methods or ()),
        fast=arguments.fast,
        defaults=arguments.defaults,
        fields=words,
    )
    if len(exhibits) == 1:
        exhibits[0].check(request)
    configs = {exhibit.name: exhibit.configs(request) for exhibit in exhibits}
    if arguments.print_config:
        for name, rows in configs.items():
            if not rows:
                print(f"# {name} needs no run.")
            for row, seeds_of_row in rows.items():
                _print_config({row: seeds_of_row})
        return
    from avalanche_dgm.experiments.paper import PaperRuns
    from avalanche_dgm.papers.making import make

    runs = PaperRuns(arguments.out, _run_options(arguments, *configs.values()))
    for exhibit in exhibits:
        if arguments.is_global_zero:
            print(f"{exhibit.title}.\n{exhibit.says}\n", flush=True)
        text = make(exhibit, request, runs, name=arguments.name)
        if arguments.is_global_zero:
            print(f"{text}\n", flush=True)


def _workspace(arguments: argparse.Namespace) -> None:
    from avalanche_dgm.dashboards.workspace import outline, save_workspace

    if arguments.project is None:
        print(outline())
        return
    entity, slash, project = arguments.project.partition("/")
    if not (entity and slash and project):
        raise ConfigError(
            f"'{arguments.project}' is no project. Give entity/project, such as"
            " my-team/avalanche-dgm."
        )
    print(save_workspace(project, entity=entity, name=arguments.name))


def _report(arguments: argparse.Namespace) -> None:
    from avalanche_dgm.experiments.pages import default_page, write_page

    path = arguments.out or default_page(arguments.runs)
    runs = write_page(arguments.runs, path, title=arguments.title)
    size = path.stat().st_size / 1e6
    print(f"{path}: {runs} {'run' if runs == 1 else 'runs'}, {size:.1f} MB")


def _options(arguments: argparse.Namespace) -> None:
    from avalanche_dgm.experiments.options import describe_options

    print(describe_options(arguments.of))


def _list(arguments: argparse.Namespace) -> None:
    from avalanche_dgm import papers
    from avalanche_dgm.experiments import recipes
    from avalanche_dgm.experiments.methods import METHODS
    from avalanche_dgm.experiments.tables import described
    from avalanche_dgm.streams import STREAMS

    for title, lines in (
        ("Methods", {name: method.description for name, method in METHODS.items()}),
        ("Streams", {name: stream.description for name, stream in STREAMS.items()}),
        ("Recipes", {name: recipes.load(name)["description"] for name in recipes.names()}),
        ("Figures and tables of the papers", {e.name: e.title for e in papers.EXHIBITS.values()}),
    ):
        print(f"{title}:\n{described(lines)}")


_COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "run": _run,
    "compare": _run,
    "demo": _demo,
    "paper": _paper,
    "workspace": _workspace,
    "report": _report,
    "options": _options,
    "list": _list,
}


def _words(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings given on the command line, most of them by the names of fields."""
    from avalanche_dgm.experiments import planning, recipes
    from avalanche_dgm.experiments.config import TrainerSettings

    given = {k: v for k, v in vars(arguments).items() if v is not None and v is not False}
    words: dict[str, Any] = {name: given[name] for name in recipes.settings() if name in given}
    trainer = {f.name: given[f.name] for f in fields(TrainerSettings) if f.name in given}
    words |= {"trainer": trainer} if trainer else {}
    words["method_options"] = {name: given[name] for name in ("share",) if name in given}
    words["stream_options"] = {name: given[name] for name in ("dataset", "case") if name in given}
    more = [f"--method_options.{pair}" for pair in given.get("set", [])]
    more += [f"--stream_options.{pair}" for pair in given.get("stream_set", [])]
    known = [f"--{name.replace('_', '-')}" for name in recipes.settings()]
    overrides = [*arguments.more, *more]
    values = read_overrides(overrides, [*getattr(arguments, "options", ()), *known])
    return planning.merge(recipes.check(values, "the command line"), words)


def _execute(
    arguments: argparse.Namespace,
    name: str,
    configs: Configs,
    intro: str = "",
) -> None:
    """Runs configs and prints the tables, or prints only the configs."""
    if arguments.print_config:
        _print_config(configs)
        return
    from avalanche_dgm.experiments.storage import run_folder
    from avalanche_dgm.experiments.sweep import Sweep, check_buffers

    options = _run_options(arguments, configs)
    if intro and arguments.is_global_zero:
        print(f"{intro}\n", flush=True)
    folder = run_folder(arguments.out, arguments.name or name)
    sweep = Sweep(folder, options)
    buffers: list[str] | None = getattr(arguments, "equal_bytes", None)
    if buffers is not None:
        buffers = buffers or ["replay"]
        check_buffers(configs, buffers)
    results: Any = sweep.run(configs)
    if buffers is not None:
        results = sweep.add_buffers(results, buffers)
    if options.is_global_zero:
        print(sweep.summarise(results))


def _print_config(configs: Configs) -> None:
    from avalanche_dgm.experiments import recipes
    from avalanche_dgm.experiments.methods import check_options

    for seeds in configs.values():
        check_options(seeds[0])
    print(recipes.dump(configs), end="")


def _run_options(arguments: argparse.Namespace, *configs: Configs) -> RunOptions:
    """How the runs are started; sets the number of threads first."""
    from avalanche_dgm.experiments.panels import LogSettings
    from avalanche_dgm.experiments.provenance import command_line
    from avalanche_dgm.experiments.runner import RunOptions
    from avalanche_dgm.experiments.sweep import is_global_zero

    if arguments.threads is not None:
        import torch

        whole("--threads", arguments.threads)
        torch.set_num_threads(arguments.threads)
        # Otherwise Lightning chooses a number for each process.
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    log = LogSettings(tuple(arguments.log), arguments.wandb_project)
    arguments.is_global_zero = all(is_global_zero(rows) for rows in configs)
    return RunOptions(
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        progress=not arguments.quiet,
        command=command_line(arguments.given),
        log=log,
        is_global_zero=arguments.is_global_zero,
    )


def _default_name(arguments: argparse.Namespace, configs: Configs) -> str:
    first = next(iter(configs.values()))[0]
    several = arguments.command == "compare" or len(configs) > 1
    parts = ["compare" if several else first.method, first.stream]
    parts += ["paper"] if first.paper else []
    file = Path(arguments.config).stem if arguments.config is not None else "config"
    if file != "config":
        parts = [file]
    parts += ["fast"] if first.fast else []
    parts += [f"seed{first.seed}"] if first.seed else []
    return "-".join(parts)


def _how_to_continue(given: Sequence[str]) -> str:
    from avalanche_dgm.experiments.provenance import command_line

    kept = [word for word in given if word not in ("--resume", "--overwrite")]
    # `paper` always resumes.
    flags = [] if kept[:1] == ["paper"] else ["--resume"]
    return f"To continue from what was saved: {command_line([*kept, *flags])}"
