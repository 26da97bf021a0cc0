"""The documentation builds, its scripts run, its commands exist and its links lead somewhere."""

import importlib
import inspect
import pkgutil
import re
import shlex
from pathlib import Path
from types import FunctionType, ModuleType
from urllib.parse import unquote

import forked
import pytest
import yaml

import avalanche_dgm
import avalanche_dgm.generators
import avalanche_dgm.lightning
import avalanche_dgm.losses
import avalanche_dgm.memories
import avalanche_dgm.methods
import avalanche_dgm.metrics
import avalanche_dgm.plots
import avalanche_dgm.plugins
import avalanche_dgm.streams
from avalanche_dgm.cli import main
from avalanche_dgm.errors import AvalancheDGMError
from avalanche_dgm.experiments.arguments import build_parser
from avalanche_dgm.methods.registry import kinds
from avalanche_dgm.settings import Settings
from avalanche_dgm.streams import STREAMS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts),
]
PACKAGES = [
    avalanche_dgm,
    avalanche_dgm.generators,
    avalanche_dgm.lightning,
    avalanche_dgm.losses,
    avalanche_dgm.memories,
    avalanche_dgm.methods,
    avalanche_dgm.metrics,
    avalanche_dgm.plots,
    avalanche_dgm.plots.furlanello2016,
    avalanche_dgm.plots.kamra2017,
    avalanche_dgm.plots.ostapenko2019,
    avalanche_dgm.plugins,
    avalanche_dgm.streams,
]


def name(path):
    return str(path.relative_to(ROOT))


def blocks(path, language):
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def run_script(text, folder, *arguments):
    """Runs a script as a user would, in a folder and a process of its own."""
    (folder / "script.py").write_text(text, encoding="utf-8")
    done = forked.run(folder / "script.py", *arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def accuracies(output):
    return [float(value) for value in re.findall(r": +(\d\.\d+)$", output, re.MULTILINE)]


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The folder of the built pages."""
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("docs")
    options = ["-q", "-W", "--keep-going", "-b", "html", "-d", folder / "doctrees"]
    script = "import sys\nfrom sphinx.cmd.build import main\nsys.exit(main(sys.argv[1:]))"
    run_script(script, folder, *options, DOCS, folder / "html")
    return folder / "html"


def test_the_documentation_builds_without_warnings_and_every_name_has_a_page(html):
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (html / "api").glob("*.html")}
    shown = [named(page) for page in pages]
    for package in PACKAGES:
        for public in package.__all__:
            found = getattr(package, public)
            if not isinstance(found, str | ModuleType):  # The version, and modules of names.
                assert any(found is other for other in shown), f"{package.__name__}.{public}"
    assert [page for page, text in pages.items() if f'id="{page}"' not in text] == []
    pages["api"] = (html / "api.html").read_text(encoding="utf-8")
    assert {page: len(text) for page, text in pages.items() if len(text.encode()) > 150_000} == {}


def named(page):
    module, _, last = page.rpartition(".")
    return getattr(importlib.import_module(module), last)


def test_every_setting_is_shown_with_its_meaning_and_default(html):
    seen = 0
    for path in (html / "api").glob("*.html"):
        found = named(path.stem)
        if not inspect.isclass(found) or issubclass(found, Exception):
            continue
        names = inspect.signature(found).parameters
        if not issubclass(found, Settings) and "settings" not in names:
            continue
        text = path.read_text(encoding="utf-8")
        said = dict(re.findall(r"<strong>(\w+)</strong> \((.*?)\) \u2013 (?=\S)", text))
        for p in names.values():
            if p.kind is not p.VAR_KEYWORD:
                assert p.name in said, (path.stem, p.name)
                assert p.default is p.empty or ", default <code" in said[p.name], path.stem
        seen += 1
    assert seen > 50


def readme_script():
    (script,) = (b for b in blocks(ROOT / "README.md", "python") if "import torch" in b)
    return script


def test_the_readme_script_runs(tmp_path):
    few = "plugins = [DGDMNPlugin(generator_steps=20, learner_steps=20)]"
    script = readme_script().replace("plugins = [DGDMNPlugin()]", few)
    assert few in script
    assert len(accuracies(run_script(script, tmp_path))) == 1


@pytest.mark.slow
@pytest.mark.finetuned
def test_the_readme_script_does_what_the_readme_says(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    said = [float(value) for value in re.findall(r"`accuracy: (\d\.\d+)`", text)]
    plain = readme_script().replace("[DGDMNPlugin()]", "[]")
    (remembers,) = accuracies(run_script(readme_script(), tmp_path))
    (forgets,) = accuracies(run_script(plain, tmp_path))
    assert [remembers, forgets] == pytest.approx(said, abs=0.05)


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(re.sub(r"^```.*?^```|<!--.*?-->", "", text, flags=re.S | re.M).split()) < 700
    assert text.index("![") < 400


def few_steps(script):
    """A script with a `DGDMNModule` that learns next to nothing, but quickly."""
    few = "DGDMNModule(net, generator_steps=20, learner_steps=20)"
    assert "DGDMNModule(net)" in script
    return script.replace("DGDMNModule(net)", few)


def test_every_other_block_of_the_readme_runs(tmp_path):
    for block in blocks(ROOT / "README.md", "python"):
        if "DGDMNModule" in block:
            (accuracy,) = re.findall(
                r"^accuracy (\d\.\d+)$", run_script(few_steps(block), tmp_path), re.M
            )
            assert 0 <= float(accuracy) <= 1
        elif "import torch" not in block:
            exec(compile(block, "README.md", "exec"), {})


def test_the_first_script_of_the_lightning_page_runs(tmp_path):
    script = few_steps(blocks(DOCS / "lightning.md", "python")[0])
    # The script leaves the file to Python's end, which a forked process does not have.
    script += "\nevaluator.loggers[0].file.flush()\n"
    assert "average_accuracy" in run_script(script, tmp_path)
    assert "Top1_Acc_Stream" in (tmp_path / "digits.log").read_text()


def test_the_quickstart_runs(tmp_path):
    output = run_script("\n\n".join(blocks(DOCS / "quickstart.md", "python")), tmp_path)
    assert "True 0" in output


def test_the_figures_are_drawn(tmp_path):
    for block in blocks(DOCS / "plots.md", "python"):
        if "plots.load" not in block:
            run_script(block, tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {"figure-9.png", "memory.png"}


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_python_blocks_are_valid(path):
    for block in blocks(path, "python"):
        compile(block, name(path), "exec")


@pytest.mark.parametrize(
    "command", [("list",), ("--help",), ("run", "--help"), ("--version",)], ids=" ".join
)
def test_quick_commands_run(command, tmp_path):
    script = "import sys\nfrom avalanche_dgm.cli import main\nsys.exit(main())"
    assert run_script(script, tmp_path, *command)


def commands(path):
    text = path.read_text(encoding="utf-8")
    lines = [line for block in blocks(path, "bash") for line in block.splitlines()]
    lines += re.findall(r"`(avalanche-dgm [^`\n]*)`", text)
    found = [line for line in lines if line.startswith("avalanche-dgm ")]
    return [shlex.split(line, comments=True)[1:] for line in found]


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_commands_can_be_given(path, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "tests")  # Where `own_method` is.
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    for text in blocks(path, "yaml"):
        if found := re.match(r"# (\w+\.yaml)\n", text):
            (tmp_path / found[1]).write_text(text)
    for words in commands(path):
        if words in (["--help"], ["--version"]) or words[-1] == "--help":
            continue
        if any("my_module" in word or "config.yaml" in word for word in words):
            continue  # Of a run, or of the reader's.
        arguments, _ = build_parser().parse_known_args(words)
        if arguments.command == "paper":
            assert main([*words, "--print-config"]) == 0, words
            assert capsys.readouterr().out
        if arguments.command not in ("run", "compare"):
            continue
        assert main([*words, "--print-config"]) == 0, words
        printed = yaml.safe_load(capsys.readouterr().out)
        assert set(printed["stream_options"]) <= set(STREAMS[printed["stream"]].options)


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_scripts_that_are_named_exist(path):
    text = path.read_text(encoding="utf-8")
    for script in re.findall(r"\bpython ((?:examples|benchmarks)/\S+?\.py)", text):
        assert (ROOT / script).is_file(), script


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_resolve(path):
    for target in links(path):
        file, _, anchor = unquote(target).partition("#")
        page = (path.parent / file).resolve() if file else path
        assert page.exists(), f"{name(path)}: {target}"
        if anchor:
            assert anchor in anchors(page), f"{name(path)}: {target}"


def links(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page):
    """The anchors of a page's headings, made as GitHub and MyST make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    headings = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_every_page_is_in_the_table_of_contents():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    entries = {line for tree in blocks(DOCS / "index.md", "{toctree}") for line in tree.split()}
    assert "quickstart" in entries, index
    pages = {str(p.relative_to(DOCS).with_suffix("")) for p in PAGES if DOCS in p.parents}
    assert pages - {"index"} <= entries


def test_the_table_of_modules_is_complete():
    text = (DOCS / "lightning.md").read_text(encoding="utf-8")
    table = text.partition("| method | module |")[2].partition("\n\n")[0]
    made = [k.__name__ for k in kinds() if k.__module__.startswith("avalanche_dgm.")]
    assert {*re.findall(r"`(\w+)Module`", table)} == {*made, "Naive"}


def test_every_error_is_explained():
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    classes = [AvalancheDGMError]
    for kind in classes:
        classes.extend(kind.__subclasses__())
    ours = [kind for kind in classes if kind.__module__ == "avalanche_dgm.errors"]
    assert [kind.__name__ for kind in ours if f"{kind.__name__}`" not in text] == []


@pytest.mark.parametrize("path", [*PAGES, *(ROOT / "examples").rglob("*.py")], ids=name)
def test_what_loads_a_pickle_says_so(path):
    text = path.read_text(encoding="utf-8")
    if re.search(r"maybe_load_checkpoint\(|resume=True", text):
        assert re.search(r"pickles?\b(?s:.{0,120})trust", text), "which can run code when loaded"


def test_deviations_are_numbered_without_a_gap():
    for path in sorted((DOCS / "methods").glob("*.md")):
        text = path.read_text(encoding="utf-8").partition("## Deviations")[2]
        # Up to the next heading of the same level.
        text = re.split(r"^## ", text, flags=re.MULTILINE)[0]
        numbers = [int(n) for n in re.findall(r"^(\d+)\. ", text, re.MULTILINE)]
        assert numbers == list(range(1, len(numbers) + 1)), path
        assert numbers, path


def test_every_public_method_is_documented_by_its_class_or_a_base_class():
    found = pkgutil.walk_packages(avalanche_dgm.__path__, "avalanche_dgm.")
    modules = [importlib.import_module(m.name) for m in found if m.name != "avalanche_dgm.__main__"]
    classes = {
        kind
        for module in modules
        for kind in vars(module).values()
        if inspect.isclass(kind) and kind.__module__ == module.__name__ and kind.__name__[0] != "_"
    }
    kinds_of_members = (FunctionType, property, classmethod, staticmethod)
    missing = [
        f"{kind.__qualname__}.{member}"
        for kind in classes
        for member, value in vars(kind).items()
        if member[0] != "_" and isinstance(value, kinds_of_members)
        if "<lambda>" not in repr(value) and not inspect.getdoc(getattr(kind, member))
    ]
    assert not missing


def test_every_result_is_filled_in():
    missing = [
        f"{name(path)}: {found}"
        for path in PAGES
        for found in re.findall(r"RESULT:[\w-]*", path.read_text(encoding="utf-8"))
    ]
    assert not missing


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_text_is_plain(path):
    text = path.read_text(encoding="utf-8")
    # Emoji and other symbols beyond the basic plane.
    assert not [c for c in text if ord(c) > 0xFFFF or 0x2600 <= ord(c) <= 0x27BF]
