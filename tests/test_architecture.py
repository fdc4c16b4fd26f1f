"""Rules that hold over the whole tree: layers, script headers, key names, docstrings, types, pages that are made."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.metadata
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tracked_queue
from tracked_queue import log
from tracked_queue.protocol import transitions
from tracked_queue.protocol.scripts import load_scripts, read_source

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "tracked_queue"
SCRIPTS = sorted(load_scripts())


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)


def test_imports_point_down() -> None:
    done = run(
        "-c", "import sys; from importlinter.cli import lint_imports_command; sys.argv = ['x']; lint_imports_command()"
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.timeout(120)
def test_types_hold_and_wrong_calls_are_refused() -> None:
    """CASE-71."""
    done = run("-m", "mypy", "--strict", "tests/typing/api.py")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_has_a_header_a_wrapper_and_tests(name: str) -> None:
    source = read_source(name)
    head = source.split("-- include", 1)[0]
    assert head.startswith(f"-- {name}: "), "its name and what it does"
    assert "KEYS[1]  tag" in head and "Returns" in head
    called = re.search(r"Called by transitions\.(\w+)", head)
    assert called and callable(getattr(transitions, called[1]))
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "scripts").glob("test_*.py"))
    short = {"heartbeat": "beat", "await": "await_end"}.get(name, name)
    assert re.search(rf"\b(q\.|t\.){short}\(", tests), "a test calls it"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_names_every_reply_word_in_its_header(name: str) -> None:
    head, _, body = read_source(name).partition("-- include")
    words = set(re.findall(r"return (?:refused\()?\{? ?'(\w+)'", body)) | set(re.findall(r"word = '(\w+)'", body))
    assert all(f"'{word}'" in head for word in words), words


def test_a_script_has_every_function_that_it_calls() -> None:
    """Of its own, or of an include; and looks at no whole database."""
    includes = "".join(path.read_text() for path in (SOURCE / "lua" / "include").glob("*.lua"))
    known = set(re.findall(r"local function (\w+)", includes))
    assert len(known) > 40
    for name, script in load_scripts().items():
        text = re.sub(r"--.*", "", script.text)
        defined = set(re.findall(r"local function (\w+)", text))
        called = set(re.findall(r"(?<![\w.:])(\w+)\(", text)) & known
        assert called <= defined, f"{name} calls {called - defined}"
        assert not re.search(r"'(KEYS|SCAN|RANDOMKEY|FLUSH\w+)'", text), name


# Who may make the name of a key of any kind; the others take it from a method of `Keys`.
NAMERS = {"protocol", "transport", "reports"}
# And who may read the environment.
READERS = {"notify.py", "machines.py", "settings.py", "lineage.py", "isolated.py", "demo.py", "demo_tasks.py"}


def modules() -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(path.read_text())) for path in SOURCE.rglob("*.py")]


def test_keys_are_named_in_one_place() -> None:
    for path, tree in modules():
        unit = path.relative_to(SOURCE).parts[0]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                named = node.func.attr in ("named", "single") and unit not in NAMERS
                assert not named, f"{path}:{node.lineno}: give Keys a method for it"


def test_the_environment_is_read_in_few_places() -> None:
    for path, tree in modules():
        if path.name not in READERS and "chaos" not in path.parts:
            found = [
                node
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
            ]
            assert not found, path


def test_requests_and_replies_are_read_by_position_in_one_place() -> None:
    """What a fetch brings is a list for speed; everybody but the protocol asks it by name."""
    for path, tree in modules():
        if "protocol" in path.parts:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute):
                assert node.value.attr != "record", f"{path}:{node.lineno}"


def places(text: str) -> list[str]:
    """The files and pages that a text says it rests on."""
    found = re.findall(r"Source: (.*?)(?:\n\s*\n|\n[A-Z]|\Z)", text, re.DOTALL)
    return re.findall(r"(?:lua|docs)/[\w/.<>-]+?\.(?:lua|md)", " ".join(found))


def test_every_source_is_there() -> None:
    count = 0
    for _, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                for place in places(ast.get_docstring(node) or ""):
                    count += 1
                    root = SOURCE if place.startswith("lua") else ROOT
                    assert "<" in place or (root / place).exists(), place
    assert count > 10


def test_the_architecture_page_names_what_is_there() -> None:
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    names = set(re.findall(r"`(tracked_queue\.[\w.]+)`", page))
    assert len(names) > 20
    for name in names:
        parts = name.split(".")
        found, at = None, len(parts)
        while found is None:
            with contextlib.suppress(ModuleNotFoundError):
                found = importlib.import_module(".".join(parts[:at]))
            at -= 0 if found else 1
            assert at, name
        for part in parts[at:]:
            found = getattr(found, part)
    for script in set(re.findall(r"`(lua/[\w/]+\.lua)`", page)):
        assert (SOURCE / script).exists(), script
    units = {path.name for path in SOURCE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert units <= set(re.findall(r"\w+", page)), "every folder is in the picture"


def test_nothing_unpickles_or_evaluates_data() -> None:
    """CASE-74."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
                # The one that reads pickles of other queues refuses all names in them; see its tests.
                allowed = {"pickle"} if path.name == "pickles.py" else set[str]()
                assert not names & {"pickle", "marshal", "shelve", "dill", "cloudpickle"} - allowed, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "__import__", "compile"), path


def _is_overload(node: ast.AST) -> bool:
    """One of several signatures, or a property's setter; another definition of the name has the docstring."""
    decorators = [ast.unparse(decorator) for decorator in getattr(node, "decorator_list", ())]
    return any(name == "overload" or name.endswith(".setter") for name in decorators)


def test_public_things_have_docstrings() -> None:
    missing = []
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        if not ast.get_docstring(tree):
            missing.append(str(path))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                protocol = any("Protocol" in ast.unparse(base) for base in node.bases)
                for item in [node, *([] if protocol else node.body)]:
                    if (
                        isinstance(item, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                        and not item.name.startswith("_")
                        and not node.name.startswith("_")
                        and not _is_overload(item)
                        and not ast.get_docstring(item)
                    ):
                        missing.append(f"{path.name}:{node.name}.{item.name}")
        for function in tree.body:
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) or function.name.startswith("_"):
                continue
            if _is_overload(function):
                continue
            if not ast.get_docstring(function):
                missing.append(f"{path.name}:{function.name}")
    assert not missing, missing


def test_every_log_event_is_a_noun_and_what_happened_to_it() -> None:
    text = (SOURCE / "log.py").read_text()
    events = re.findall(r'log\.(?:debug|info|warning|error)\)?\(\s*f?"([a-z_.]+)', text)
    assert len(events) > 20 and all(re.fullmatch(r"[a-z]+\.[a-z_]*", event) for event in events)
    assert callable(log.job_fenced)


def test_the_package_is_typed_and_ships_its_scripts(tmp_path: Path) -> None:
    assert (SOURCE / "py.typed").exists()
    assert tracked_queue.__version__ in (ROOT / "pyproject.toml").read_text()


# What a script's calls could touch but never do: a job that is new or above suspicion is no suspect.
NEVER = {
    "enqueue": {"suspected", "suspecting", "wake_suspects"},
    "requeue": {"suspected", "suspecting", "wake_suspects"},
}


def test_the_header_of_each_script_names_the_keys_that_it_touches() -> None:
    """A Redis user's rights, a cluster's slots and a reader rest on it. Of the includes what the script calls counts."""
    for path in sorted((SOURCE / "lua").glob("*.lua")):
        source = path.read_text()
        told = source.partition("Derived:")[2].partition("--\n")[0]
        named = set(re.findall(r"[a-z_]+", re.sub(r"<[^>]*>|\\n", "", told)))
        missing = _keys_of(source) - named - NEVER.get(path.stem, set())
        assert not missing, f"{path.name}: {missing}"


def _keys_of(source: str) -> set[str]:
    """The kinds of keys that a script may touch: those of its own code, and of the functions that this reaches."""
    own, functions = _split(source)
    todo, done = set(re.findall(r"^-- include (\w+)", source, re.MULTILINE)), set[str]()
    while todo - done:
        name = (todo - done).pop()
        done.add(name)
        text = (SOURCE / "lua" / "include" / f"{name}.lua").read_text()
        todo |= set(re.findall(r"^-- include (\w+)", text, re.MULTILINE))
        more, theirs = _split(text)
        own, functions = own + more, functions | theirs
    called, reached = own, set[str]()
    while new := {name for name in functions if name not in reached and re.search(rf"\b{name}\b", called)}:
        reached |= new
        called += "".join(functions[name] for name in new)
    return set(re.findall(r"(?:named|single)\('(\w+)'", called))


def _split(source: str) -> tuple[str, dict[str, str]]:
    """What runs at once, and the functions of the first level by name; without comments."""
    own, functions, name = "", dict[str, str](), ""
    for line in re.sub(r"--.*", "", source).splitlines(keepends=True):
        if begins := re.match(r"local function (\w+)", line):
            name = begins[1]
        if name:
            functions[name] = functions.get(name, "") + line
        else:
            own += line
        if re.match(r"end\b", line) or (begins and line.rstrip().endswith(" end")):
            name = ""
    return own, functions


def test_the_reference_pages_are_fresh() -> None:
    done = run("scripts/make_reference.py", "--check")
    assert done.returncode == 0, done.stdout


def test_nothing_names_a_path_of_one_machine() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    pattern = re.compile(r"(^|[^\w.-])/(work|farm|root|home)/")
    for name in tracked:
        path = ROOT / name
        if path.is_file() and path.suffix in (".py", ".md", ".toml", ".yml", ".yaml", ".lua", ""):
            assert not pattern.search(path.read_text("utf-8", "ignore")), name


NEEDS_A_TASK = {
    "start_soon",
    "CancelScope",
    "move_on_after",
    "move_on_at",
    "fail_after",
    "fail_at",
    "create_task_group",
}


def test_anyio_is_used_inside_of_tasks() -> None:
    """A plain function may be an event loop's callback, where anyio finds no event loop once sniffio is installed."""
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        own = [item for item in ast.walk(tree) if isinstance(item, ast.AsyncFunctionDef)]
        inside = {id(node) for item in own for node in ast.walk(item)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in NEEDS_A_TASK:
                assert id(node) in inside, f"{path.name}:{node.lineno}: {ast.unparse(node)}"


def test_what_runs_on_every_python_imports_only_what_is_installed_there() -> None:
    """scripts/on_pythons.py makes environments with less in them than the one for development."""
    facts = runpy.run_path(str(ROOT / "scripts" / "on_pythons.py"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *facts["NEEDED"], *(one for extra in facts["EXTRAS"] for one in extras[extra])]
    there, seen = [Requirement(one).name for one in wanted], set[str]()
    while there:  # and what these need themselves
        name = canonicalize_name(there.pop())
        if name not in seen:
            seen.add(name)
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                needs = map(Requirement, importlib.metadata.requires(name) or ())
                there += [one.name for one in needs if one.marker is None or one.marker.evaluate({"extra": ""})]
    packages = importlib.metadata.packages_distributions()
    missing = []
    for folder in facts["TESTS"]:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.parse(path.read_text()).body:
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
                names += [one.name for one in node.names] if isinstance(node, ast.Import) else []
                for top in (
                    {name.partition(".")[0] for name in names} - {"tests", "tracked_queue"} - sys.stdlib_module_names
                ):
                    if not {canonicalize_name(one) for one in packages.get(top, ())} & seen:
                        missing.append(f"{path.name}: {top}")
    assert not missing


def test_ci_runs_every_suite_and_the_guide_names_each() -> None:
    guide = (ROOT / "docs" / "how-to" / "contribute.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    recipes = dict(re.findall(r"^([\w-]+):.*\n((?:\t.*\n)+)", makefile, re.M))
    run_by_ci = [recipes[target] for target in re.findall(r"^make ([\w-]+)", (ROOT / ".ci" / "run").read_text(), re.M)]
    left_out = set(re.findall(r"--ignore (tests/\w+)", recipes["test"]))
    others = "\n".join(recipe for recipe in run_by_ci if recipe != recipes["test"])
    for script in re.findall(r"scripts/\w+\.py", others):
        others += (ROOT / script).read_text()
    for folder in sorted((ROOT / "tests").iterdir()):
        suite = f"tests/{folder.name}"
        if not any(folder.glob("test_*.py")) and folder.name != "recordings":
            continue
        assert f"`{suite}`" in guide, suite
        assert suite not in left_out or suite in others, f"{suite}: nothing that CI runs runs it"
