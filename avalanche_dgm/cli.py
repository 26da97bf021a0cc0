"""The command ``avalanche-dgm``.

What needs PyTorch or Avalanche is imported when a command runs: ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from avalanche_dgm.errors import AvalancheDGMError, ConfigError, StorageError
from avalanche_dgm.experiments.arguments import DEMO, at_least_one, build_parser, read_options

if TYPE_CHECKING:
    from avalanche_dgm.experiments.config import ExperimentConfig

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
    arguments = argparse.Namespace(given=given, is_global_zero=True)
    try:
        build_parser().parse_args(given, namespace=arguments)
        for module in getattr(arguments, "plugin", ()):
            _load_plugin(module)
        _COMMANDS[arguments.command](arguments)
    except SystemExit as end:  # argparse: --help, --version
        return int(end.code or 0)
    except AvalancheDGMError as error:
        where = "" if arguments.is_global_zero else " in another process"
        text = " ".join(str(error).split())
        if isinstance(error, StorageError) and hasattr(arguments, "resume"):
            text += f" {_how_to_continue(given)}"
        print(f"avalanche-dgm: error{where}: {text}", file=sys.stderr)
        return _USAGE_ERROR
    except KeyboardInterrupt:
        if arguments.is_global_zero:
            print(f"\navalanche-dgm: interrupted. {_how_to_continue(given)}", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _load_plugin(name: str) -> None:
    """Imports a module that registers methods, from the working folder or installed."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"--plugin {name}: it cannot be imported: {error}.") from error


def _run(arguments: argparse.Namespace) -> None:
    arguments.methods = [arguments.method]
    _execute(arguments, _default_name(arguments, arguments.method), _configs(arguments))


def _compare(arguments: argparse.Namespace) -> None:
    _execute(arguments, _default_name(arguments, "compare"), _configs(arguments))


def _demo(arguments: argparse.Namespace) -> None:
    from avalanche_dgm.experiments.config import ExperimentConfig

    # The demonstration is there to be watched again; its folder is nobody's result.
    arguments.overwrite = not arguments.resume
    # Networks this small gain nothing from a second thread, and lose much on a busy machine.
    arguments.threads = arguments.threads or 1
    configs = {
        method: [
            ExperimentConfig.create(
                method,
                "sklearn-digits",
                seed=arguments.seed,
                device=arguments.device,
                fast=arguments.fast,
                epochs=None if arguments.fast else 20,
                batch_size=32,
                method_options=None if arguments.fast else options,
                **_backend(arguments),
            )
        ]
        for method, options in DEMO.items()
    }
    _execute(
        arguments,
        "demo",
        configs,
        "Ten handwritten digits, learned one after the other. When the last one is learned, the\n"
        "first are long gone: no image of them is kept. What does each method still know?",
    )


def _paper(arguments: argparse.Namespace) -> None:
    from avalanche_dgm.experiments import paper

    if arguments.figure is None:
        print(paper.listing())
        return
    if arguments.figure == paper.ALTM_FIG1.name:
        _draw(arguments)
        return
    figure = paper.figure(arguments.figure)
    seeds = at_least_one(arguments.seeds, "seeds")
    configs = figure.configs(
        scale=arguments.scale,
        seeds=range(arguments.seed, arguments.seed + seeds),
        methods=arguments.methods,
        data_root=arguments.data_root,
        download=arguments.download,
        device=arguments.device,
        **_backend(arguments),
    )
    intro = f"{figure.title}.\nIn the paper: {figure.shows}"
    _execute(arguments, f"paper-{figure.name}-scale{arguments.scale:g}", configs, intro)


def _draw(arguments: argparse.Namespace) -> None:
    """Makes the figure that needs no data, no methods and no Trainer."""
    from avalanche_dgm.experiments import computed
    from avalanche_dgm.experiments.storage import run_folder

    figure = computed.ALTM_FIG1
    plain = vars(build_parser().parse_args(["paper", figure.name]))
    drawn = {
        "log",
        "wandb_project",
        "given",
        "is_global_zero",
        "seed",
        "threads",
        "out",
        "name",
        "overwrite",
        "resume",
        "quiet",
    }
    foreign = [n for n, v in plain.items() if n not in drawn and getattr(arguments, n) != v]
    if foreign:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in foreign)
        raise ConfigError(
            f"{flags}: {figure.name} has no use for it. It draws its own data and takes seconds:"
            " no data set, no methods, one seed."
        )
    _limit_threads(arguments)
    print(f"{figure.title}.\nIn the paper: {figure.shows}\n", flush=True)
    folder = run_folder(arguments.out, arguments.name or f"paper-{figure.name}")
    print(computed.draw(folder, seed=arguments.seed, overwrite=arguments.overwrite))


def _workspace(arguments: argparse.Namespace) -> None:
    from avalanche_dgm.dashboards.workspace import outline, save_workspace

    if arguments.project is None:
        print(outline())
        return
    entity, slash, project = arguments.project.partition("/")
    if not (entity and slash and project):
        raise ConfigError(
            f"'{arguments.project}' names no project. Give the user or team, a slash, and the"
            " project, such as my-team/avalanche-dgm."
        )
    print(save_workspace(project, entity=entity, name=arguments.name))


def _report(arguments: argparse.Namespace) -> None:
    from avalanche_dgm.experiments.pages import default_page, write_page

    path = arguments.out or default_page(arguments.runs)
    runs = write_page(arguments.runs, path, title=arguments.title)
    size = path.stat().st_size / 1e6
    print(f"{path}: {runs} {'run' if runs == 1 else 'runs'}, {size:.1f} MB")


def _list(arguments: argparse.Namespace) -> None:
    from avalanche_dgm.experiments import paper
    from avalanche_dgm.experiments.methods import METHODS
    from avalanche_dgm.experiments.streams import stream_descriptions

    for title, lines in (
        ("Methods", {name: method.description for name, method in METHODS.items()}),
        ("Streams", stream_descriptions()),
        ("Figures of the DGDMN paper", {figure.name: figure.title for figure in paper.FIGURES}),
        ("Figures of the A-LTM paper", {paper.ALTM_FIG1.name: paper.ALTM_FIG1.title}),
    ):
        width = max(map(len, lines))
        print(f"{title}:")
        for name, text in lines.items():
            print(f"  {name:<{width}}  {text}")


_COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "run": _run,
    "compare": _compare,
    "demo": _demo,
    "paper": _paper,
    "workspace": _workspace,
    "report": _report,
    "list": _list,
}


def _configs(arguments: argparse.Namespace) -> dict[str, list[ExperimentConfig]]:
    """Makes the configs of each method, one a seed."""
    from avalanche_dgm.experiments.config import ExperimentConfig

    options = _options_by_method(arguments)
    measured = _measured(arguments)
    seeds = at_least_one(arguments.seeds, "seeds")
    configs = {}
    for method in arguments.methods:
        config = ExperimentConfig.create(
            method,
            arguments.stream,
            paper=arguments.paper,
            fast=arguments.fast,
            quality=method in measured,
            seed=arguments.seed,
            n_experiences=arguments.experiences,
            epochs=arguments.epochs,
            batch_size=arguments.batch_size,
            lr=arguments.lr,
            optimizer=arguments.optimizer,
            schedule=arguments.schedule,
            hidden=arguments.hidden,
            dropout=arguments.dropout,
            data_root=arguments.data_root,
            download=arguments.download,
            device=arguments.device,
            method_options=options[method],
            stream_options=_given(dataset=arguments.dataset, case=arguments.case)
            | read_options(arguments.stream_set),
            **_backend(arguments),
        )
        configs[method] = [config.replace(seed=arguments.seed + i) for i in range(seeds)]
    return configs


def _backend(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of a config that say what trains."""
    from avalanche_dgm.experiments.trainer import TrainerSettings

    names = [field.name for field in dataclasses.fields(TrainerSettings)]
    given = {n: value for n in names if (value := getattr(arguments, n)) is not None}
    if given and arguments.backend != "lightning":
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"{flags}: only a Trainer has such settings. Add --backend lightning.")
    return {"backend": arguments.backend, "trainer": TrainerSettings(**given)}


def _given(**options: object) -> dict[str, object]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _options_by_method(arguments: argparse.Namespace) -> dict[str, dict[str, object]]:
    """Gives each option to the methods that have it; one method must have all."""
    from avalanche_dgm.experiments.config import present_method, require_known
    from avalanche_dgm.experiments.methods import METHODS, options_of

    arguments.methods = [present_method(method) for method in arguments.methods]
    for method in arguments.methods:
        require_known("method", method, METHODS)
    options = _given(share=arguments.share) | read_options(arguments.set)
    if len(arguments.methods) == 1 or not options:
        return dict.fromkeys(arguments.methods, options)
    known = {method: options_of(METHODS[method]) for method in arguments.methods}
    for key in options:
        if not any(key in names for names in known.values()):
            raise ConfigError(f"None of {', '.join(arguments.methods)} has an option '{key}'.")
    return {m: {k: v for k, v in options.items() if k in known[m]} for m in known}


def _measured(arguments: argparse.Namespace) -> list[str]:
    """The methods whose generators are measured; of several that have none, one must have one."""
    from avalanche_dgm.experiments.methods import METHODS, has_gan

    if not arguments.quality:
        return []
    # What a config cannot have is said where it is checked.
    return [m for m in arguments.methods if has_gan(METHODS[m])] or list(arguments.methods)


def _execute(
    arguments: argparse.Namespace,
    name: str,
    configs: dict[str, list[ExperimentConfig]],
    intro: str = "",
) -> None:
    """Runs configs and prints the tables."""
    from avalanche_dgm.experiments.log_settings import LogSettings
    from avalanche_dgm.experiments.provenance import command_line
    from avalanche_dgm.experiments.storage import run_folder
    from avalanche_dgm.experiments.sweep import Sweep, is_global_zero

    _limit_threads(arguments)
    with warnings.catch_warnings():
        # Avalanche and what it depends on greet with warnings that no user can act on.
        warnings.filterwarnings("ignore", module="qpsolvers")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        log = LogSettings(tuple(arguments.log), arguments.wandb_project)
        arguments.is_global_zero = is_global_zero(configs)
        if intro and arguments.is_global_zero:
            print(f"{intro}\n", flush=True)
        sweep = Sweep(
            folder=run_folder(arguments.out, arguments.name or name),
            resume=arguments.resume,
            overwrite=arguments.overwrite,
            progress=not arguments.quiet,
            command=command_line(arguments.given),
            log=log,
            is_global_zero=arguments.is_global_zero,
        )
        results = sweep.run(configs)
        if sweep.is_global_zero:
            print(sweep.summarise(results))


def _limit_threads(arguments: argparse.Namespace) -> None:
    """Sets the number of threads, if one was given."""
    if arguments.threads is None:
        return
    import torch

    torch.set_num_threads(at_least_one(arguments.threads, "threads"))
    if arguments.backend == "lightning":
        # Lightning chooses a number for each process unless it finds this.
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)


def _default_name(arguments: argparse.Namespace, what: str) -> str:
    parts = [what, arguments.stream]
    parts += ["paper"] if arguments.paper else []
    parts += ["fast"] if arguments.fast else []
    parts += [f"seed{arguments.seed}"] if arguments.seed else []
    return "-".join(parts)


def _how_to_continue(given: Sequence[str]) -> str:
    from avalanche_dgm.experiments.provenance import command_line

    kept = [word for word in given if word not in ("--resume", "--overwrite")]
    return f"What was learned is saved; continue with: {command_line([*kept, '--resume'])}"
