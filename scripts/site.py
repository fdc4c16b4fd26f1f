"""Build the documentation's site below build/site, a warning being an error, and look at what came out. Needs no network."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def main() -> int:
    out = ROOT / "build" / "site" / version("tracked-queue")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E", "-b", "html", str(DOCS), str(out)]
    if code := subprocess.run(command, cwd=ROOT, check=False).returncode:
        return code
    problems = list(look(out))
    for problem in problems:
        print(problem)
    pages = len(list(out.rglob("*.html")))
    print(f"{out.relative_to(ROOT)}: {pages} pages, {len(problems)} problems; open {out.relative_to(ROOT)}/index.html")
    return 1 if problems else 0


def look(out: Path) -> list[str]:
    """What is missing, and what would be asked of the network."""
    found = []
    index, whole = (out / "llms.txt").read_text("utf-8"), (out / "llms-full.txt").read_text("utf-8")
    for page in sorted(DOCS.rglob("*.md")):
        name = page.relative_to(DOCS).with_suffix("").as_posix()
        for kind in (".html", ".md"):
            if not out.joinpath(name + kind).exists():
                found.append(f"{name}{kind} was not made: name the page in docs/index.md")
        if f"]({name}.md)" not in index or f"<!-- {name}.md -->" not in whole:
            found.append(f"{name} is not in llms.txt and llms-full.txt")
    if not (out / "searchindex.js").exists():
        found.append("there is no search")
    for page in out.rglob("*.html"):
        for asked in re.findall(
            r"<(?:script|img|link|iframe)[^>]+(?:src|href)=\"(https?:)?//[^\"]*\"", page.read_text("utf-8")
        ):
            found.append(f"{page.relative_to(out)} loads something from {asked or 'another host'}")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
