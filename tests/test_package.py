"""scripts/package.py finds what is missing, what does not belong there, and what is not ready; `make package` runs it whole."""

from __future__ import annotations

import io
import runpy
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = str(ROOT / "scripts" / "package.py")


@pytest.fixture
def facts() -> dict[str, Any]:
    return runpy.run_path(SCRIPT)


def packed(facts: dict[str, Any], folder: Path, *, without: str = "", beside: str = "") -> tuple[Path, Path]:
    """A wheel and an sdist with the names of the real ones, without one file or with one more."""
    wheel, sdist = folder / "a.whl", folder / "a.tar.gz"
    own = [name for name in facts["sources"]() if name != without]
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in [*own, "tracked_queue-0.dist-info/METADATA", *([beside] if beside else [])]:
            archive.writestr(name.removeprefix("src/"), "")
    with tarfile.open(sdist, "w:gz") as archive_of_source:
        for name in [*own, *(one for one in facts["WANTED"] if one != without), *([beside] if beside else [])]:
            archive_of_source.addfile(tarfile.TarInfo(f"tracked_queue-0/{name}"), io.BytesIO())
    return wheel, sdist


def test_what_is_whole_has_no_problem(facts: dict[str, Any], tmp_path: Path) -> None:
    assert list(facts["problems"](*packed(facts, tmp_path))) == []


@pytest.mark.parametrize(
    "name", ["src/tracked_queue/py.typed", "src/tracked_queue/lua/fetch.lua", "src/tracked_queue/lua/include/keys.lua"]
)
def test_a_file_that_was_left_out_is_named_in_both(facts: dict[str, Any], tmp_path: Path, name: str) -> None:
    found = list(facts["problems"](*packed(facts, tmp_path, without=name)))
    assert found == [f"a.whl: {name.removeprefix('src/')} is missing", f"a.tar.gz: {name} is missing"]


@pytest.mark.parametrize("name", ["tests/conftest.py", "LICENSE"])
def test_what_distributors_need_is_wanted_in_the_sdist(facts: dict[str, Any], tmp_path: Path, name: str) -> None:
    assert list(facts["problems"](*packed(facts, tmp_path, without=name))) == [f"a.tar.gz: {name} is missing"]


def test_what_does_not_belong_there_is_named(facts: dict[str, Any], tmp_path: Path) -> None:
    found = list(facts["problems"](*packed(facts, tmp_path, beside="tests/__pycache__/a.pyc")))
    assert found == [
        "a.whl: tests/__pycache__/a.pyc does not belong there",
        "a.tar.gz: tests/__pycache__/a.pyc does not belong there",
    ]
    found = list(facts["problems"](*packed(facts, tmp_path, beside="tests/test_more.py")))
    assert found == ["a.whl: tests/test_more.py does not belong there"]


def test_a_commit_that_is_not_the_release_is_refused(tmp_path: Path) -> None:
    """The script's own folder is what it looks at, so a copy in a repository of its own is asked."""

    def git(*arguments: str) -> None:
        name = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *name, *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts" / "package.py"
    script.write_text(Path(SCRIPT).read_text())
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "a"\nversion = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n")
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "-m", "first")

    def why(version: str) -> list[str]:
        return list(runpy.run_path(str(script))["not_ready"](version))

    assert why("1.2.3") == ["CHANGELOG.md has no section `## 1.2.3 - <date>`", "this commit has no tag v1.2.3"]
    assert why("1.2.4")[0] == "pyproject.toml says version 1.2.3"
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.3 - 2027-01-01\n")
    assert why("1.2.3")[0] == "there are changes that are not committed"
    git("commit", "--quiet", "--all", "-m", "second")
    git("tag", "v1.2.3")
    assert why("1.2.3") == []
