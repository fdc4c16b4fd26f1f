"""What the README and the tutorial print is run as printed; links lead somewhere; YAML and Python parse."""

from __future__ import annotations

import ast
import configparser
import importlib.util
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tracked_queue.chaos.server import RedisServer
from tracked_queue.worker.supervisor import KILL_AFTER_S, LAST_RECOVERY_S

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)


def files(page: str) -> dict[str, str]:
    found = {}
    for block in blocks(page, "python"):
        name = re.match(r"# ([\w.]+\.py)\n", block)
        if name:
            found[name[1]] = block
    return found


def run_as_printed(page: str, folder: Path, app: str, program: str) -> str:
    for name, text in files(page).items():
        (folder / name).write_text(text)
    return run_program(folder, app, program)


def run_program(folder: Path, app: str, program: str) -> str:
    """What a program prints beside a worker."""
    env = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "PYTHONPATH")}
    command = [sys.executable, "-m", "tracked_queue", "worker", app]
    with (folder / "worker.log").open("wb") as log:
        worker = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
    try:
        done = subprocess.run(
            [sys.executable, program], cwd=folder, env=env, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr + (folder / "worker.log").read_text()
        return done.stdout
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0


@pytest.mark.timeout(120)
def test_the_readme_example_works_as_printed(tmp_path: Path) -> None:
    assert run_as_printed("README.md", tmp_path, "shop:app", "shop.py").strip() == "5"


@pytest.mark.timeout(120)
def test_the_tutorial_works_as_printed(tmp_path: Path) -> None:
    """CASE-84 on the way: worker and producer share the folder's embedded server, which ends with the last of them."""
    out = run_as_printed("docs/tutorial.md", tmp_path, "jobs:app", "produce.py").splitlines()
    assert out == ["welcome, user 42 (de)", "True False", "100 jobs stored", "attempt 3", "dead ValueError", "True"]


@pytest.mark.timeout(180)
def test_the_application_grows_as_printed(tmp_path: Path) -> None:
    """Each step's try.py runs beside a worker of what shop.py is by then, and prints what the page says; then the shop's own tests."""
    page = (ROOT / "docs" / "grow.md").read_text("utf-8")
    shop, tried = "", 0
    for step in page.split("\n## ")[1:]:
        parts = dict(re.findall(r"```python\n# ([\w.]+\.py)\n(.*?)```", step, re.DOTALL))
        shop += parts.get("shop.py", "")
        (tmp_path / "shop.py").write_text(shop)
        if "try.py" in parts:
            (tmp_path / "try.py").write_text(parts["try.py"])
            (expected,) = re.findall(r"```text\n(.*?)```", step, re.DOTALL)
            assert run_program(tmp_path, "shop:app", "try.py") == expected, step.partition("\n")[0]
            tried += 1
        elif "test_shop.py" in parts:
            (tmp_path / "test_shop.py").write_text(parts["test_shop.py"])
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:xdist", "test_shop.py"]
            env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "REDIS_URL"))}
            done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100)
            assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr
            tried += 1
    assert tried == 6


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_what_the_docs_import_from_us_exists() -> None:
    """On pages that are not run, too, because they need Django, Celery or a database."""
    looked = 0
    for page in PAGES:
        for block in blocks(str(page.relative_to(ROOT)), "python") if page.name != "api.md" else ():  # signatures
            for node in ast.walk(ast.parse(textwrap.dedent(block))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "tracked_queue":
                    module = importlib.import_module(node.module or "")
                    for item in node.names:
                        found = hasattr(module, item.name) or importlib.util.find_spec(f"{node.module}.{item.name}")
                        assert found, f"{page.name}: there is no {node.module}.{item.name}"
                        looked += 1
    assert looked > 100


def test_commands_in_the_docs_exist() -> None:
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    used = set(re.findall(r"python -m tracked_queue ([a-z]+)", text))
    listed = (ROOT / "docs/reference/commands.md").read_text("utf-8")
    assert used and all(f"| `{name}" in listed for name in used), used


# Pages whose blocks go on with what a reader has, which is made here.
GOING_ON = {
    "dashboard.md": "web, SECRET = Starlette(), 'x' * 32\nasync def user_of(scope): ...\nPath('users').write_text('')",
    "errors.md": "",
    "operate.md": "",
    "trace.md": "",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("page", GOING_ON)
def test_what_goes_on_with_a_reader_s_own_code_runs(
    page: str, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    made = "import os\nfrom pathlib import Path\nfrom starlette.applications import Starlette\nfrom tracked_queue import TrackedQueue"
    program = "\n".join([made, "app = TrackedQueue()", GOING_ON[page], *blocks(f"docs/how-to/{page}", "python")])
    main = "import ast, asyncio, sys; asyncio.run(eval(compile(sys.stdin.read(), 'page', 'exec', ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)) or done())"
    env = os.environ | {"REDIS_URL": server.url, "PROCESSING_NS": namespace}
    done = subprocess.run(
        [sys.executable, "-c", f"async def done(): ...\n{main}"],
        cwd=tmp_path, env=env, input=program, capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_no_page_has_code_that_nothing_runs() -> None:
    whole = {
        "README.md",
        "tutorial.md",
        "grow.md",
        "django.md",
        "api.md",
    }  # django.md: tests/django; api.md: signatures
    with_code = {page.name for page in PAGES if blocks(str(page.relative_to(ROOT)), "python")}
    assert with_code <= whole | set(GOING_ON) | set(HOW_TO), "run it, or write it as text"


HOW_TO = sorted(
    path.name for path in (ROOT / "docs" / "how-to").glob("*.md") if "async def main()" in path.read_text("utf-8")
)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("page", HOW_TO)
def test_a_how_to_runs_as_printed(page: str, server: RedisServer, namespace: str, tmp_path: Path) -> None:
    """A page's Python blocks are one module with an `app` and a `main()`; a worker of that app runs beside it."""
    module = tmp_path / f"howto_{page.removesuffix('.md').replace('-', '_')}.py"
    module.write_text("\n\n".join(blocks(f"docs/how-to/{page}", "python")))
    program = f"""
import asyncio, {module.stem} as page

async def all_of_it():
    if "QueueKit" in vars(page):
        return await page.main()
    worker = asyncio.ensure_future(page.app.run_worker(handle_signals=False))
    try:
        async with asyncio.timeout(40):
            await page.main()
    finally:
        worker.cancel()
        await asyncio.wait({{worker}})
        await page.app.aclose()

asyncio.run(all_of_it())
print("ran to its end")
"""
    env = {**os.environ, "REDIS_URL": server.url, "PROCESSING_NS": namespace, "HEARTBEAT_INTERVAL": "0.5"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "ran to its end" in done.stdout, done.stdout + done.stderr


def test_the_systemd_unit_gives_jobs_their_grace() -> None:
    """A unit that is killed before its grace is over costs jobs; options that don't exist cost the service."""
    (unit,) = blocks("docs/how-to/systemd.md", "ini")
    parser = configparser.ConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit)
    service = parser["Service"]
    command = service["ExecStart"].split()
    assert command[0].endswith("/tracked-queue") and command[1] == "worker"
    options = {name for name in command if name.startswith("--")}
    offered = subprocess.run(
        [sys.executable, "-m", "tracked_queue", "worker", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert all(name in offered for name in options)
    grace = float(command[command.index("--grace") + 1])
    assert float(service["TimeoutStopSec"]) > grace + KILL_AFTER_S + LAST_RECOVERY_S
    assert service["KillMode"] in ("mixed", "control-group") and service["ExecReload"].split()[1] == "-USR1"
