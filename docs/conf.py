"""The documentation as a site: `make site`. The pages are Markdown, and read as well where they are."""

from __future__ import annotations

import json
import re
import shutil
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from pygments.lexers.special import TextLexer

HERE = Path(__file__).parent

project = "tracked_queue"
version = release = installed("tracked-queue")
copyright = "tracked_queue's contributors"
extensions = ["myst_parser"]
exclude_patterns = ["README.md"]
root_doc = "index"
nitpicky = True
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
# A link to a file that is no page, such as an example's code, is a download.
suppress_warnings: list[str] = []
html_theme = "furo"
html_title = f"tracked_queue {version}"
html_static_path: list[str] = []
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"source_repository": "", "footer_icons": []}
html_sidebars = {
    "**": [
        "sidebar/brand.html", "sidebar/search.html", "sidebar/scroll-start.html", "sidebar/navigation.html",
        "sidebar/scroll-end.html", "versions.html",
    ]
}  # fmt: skip
templates_path = ["_templates"]


def setup(app: Any) -> None:
    """Sphinx's hook."""
    app.add_lexer("mermaid", TextLexer)  # drawn where Markdown is shown, and read here
    app.connect("build-finished", for_models)
    app.connect("build-finished", versions)


def for_models(app: Any, problem: Exception | None) -> None:
    """Each page's Markdown beside it, `llms.txt`, which names them all, and `llms-full.txt`, which is all of them."""
    if problem is not None or app.builder.name != "html":
        return
    out = Path(app.outdir)
    index, whole = (
        [f"# tracked_queue {version}", "", "> An asyncio job queue for Python on Redis that does not lose jobs.", ""],
        [],
    )
    for name in sorted(app.env.found_docs, key=_order(app)):
        text = re.sub(
            r"```\{include\} (\S+)\n.*?```", _included, (HERE / f"{name}.md").read_text("utf-8"), flags=re.DOTALL
        )
        target = out / f"{name}.md"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")
        title = next((line[2:] for line in text.splitlines() if line.startswith("# ")), name)
        index.append(f"- [{title}]({name}.md){_about(text)}")
        whole.append(f"<!-- {name}.md -->\n\n{text.strip()}\n")
    (out / "llms.txt").write_text("\n".join(index) + "\n", "utf-8")
    (out / "llms-full.txt").write_text("\n\n".join(whole), "utf-8")


def _included(found: re.Match[str]) -> str:
    return (HERE / found[1]).read_text("utf-8").replace("](docs/", "](")


def _order(app: Any) -> Any:
    """As the index has them."""
    named = re.findall(r"^([\w/-]+)$", (HERE / "index.md").read_text("utf-8"), re.MULTILINE)
    return lambda name: (named.index(name) if name in named else len(named), name)


def _about(text: str) -> str:
    """A page's first sentence."""
    for block in re.sub(r"```.*?```", "", text, flags=re.DOTALL).split("\n\n")[1:]:
        if block.strip() and block.strip()[0] not in "#<`|-:!*":
            sentence = re.split(r"(?<=[.:])\s", " ".join(block.split()))[0]
            return ": " + re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", sentence)
    return ""


def versions(app: Any, problem: Exception | None) -> None:
    """The site's own version below its folder, and a page that leads to the newest one and names the others."""
    if problem is not None or app.builder.name != "html":
        return
    top = Path(app.outdir).parent
    found = sorted((item.name for item in top.iterdir() if (item / "llms.txt").exists()), key=_number, reverse=True)
    (top / "versions.json").write_text(json.dumps(found), "utf-8")
    rows = "".join(f'<li><a href="{name}/index.html">{name}</a></li>' for name in found)
    page = f'<meta http-equiv="refresh" content="0; url={found[0]}/index.html">'
    (top / "index.html").write_text(f"<!doctype html><title>tracked_queue</title>{page}", "utf-8")
    (top / "versions.html").write_text(
        f"<!doctype html><title>Versions of tracked_queue</title><h1>Versions</h1><ul>{rows}</ul>", "utf-8"
    )
    shutil.rmtree(Path(app.outdir) / ".doctrees", ignore_errors=True)


def _number(name: str) -> tuple[Any, ...]:
    return tuple(int(part) if part.isdigit() else -1 for part in re.split(r"[.a-z]+", name))
