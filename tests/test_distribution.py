"""What is in the wheel and in the source distribution."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUILD = "from setuptools import build_meta as b; b.build_wheel('out'); b.build_sdist('out')"


@pytest.fixture(scope="module")
def tracked():
    """The files of the repository."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("This is no checkout: which files are the repository's is not known.")
    words = [git, "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def built(tracked, tmp_path_factory):
    """The folder with both, made of a copy."""
    folder = tmp_path_factory.mktemp("source")
    for name in tracked:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    (folder / "out").mkdir()
    words = [sys.executable, "-c", BUILD]
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    return folder / "out"


def test_the_wheel_has_the_whole_package(tracked, built):
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert inside == {name for name in tracked if name.startswith("avalanche_dgm/")}


def test_the_source_distribution_has_what_its_tests_need(tracked, built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as source:
        inside = {name.partition("/")[2] for name in source.getnames()}
    # What only a repository has a use for.
    own = {".gitignore", *(name for name in tracked if name.startswith(".github/"))}
    assert {*tracked} - own - inside == set()
