"""The page of the public interface, from its docstrings."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import tracked_queue

SOURCE = Path(tracked_queue.__file__).parent
# What stands beside the package's own names; and why, for the reader.
MODULES = {
    "tracked_queue.testing": "Testing", "tracked_queue.outbox": "Outbox", "tracked_queue.asgi": "FastAPI and Starlette",
    "tracked_queue.litestar": "Litestar", "tracked_queue.django": "Django", "tracked_queue.django.testing": "Django: test cases",
    "tracked_queue.compat.celery": "Celery's interface", "tracked_queue.dashboard": "Dashboard",
    "tracked_queue.tracing": "Tracing", "tracked_queue.sentry": "Sentry",
}  # fmt: skip
# In this order; all other names of the package follow.
GROUPS = {
    "The app and its tasks": ("TrackedQueue", "Task", "SyncTask", "TaskWithOptions", "JobOptions", "PreparedCall", "Step", "NamedEnqueue"),
    "Jobs": ("Job", "JobInfo", "State", "Progress", "Failure", "ErrorInfo", "LogLine", "JobEvent", "Group", "BatchProgress"),
    "In a job": ("current_job", "CurrentJob", "JobContext", "Depends", "injected", "Results", "Retry", "Snooze", "Discard", "Dead"),
    "Options": ("Exponential", "Fixed", "Unique", "Concurrency", "Rate", "Planned"),
    "Operating": ("Operator", "Viewer"),
}  # fmt: skip
SECTION = re.compile(r"^(Args|Returns|Raises|Source|Yields):\s*(.*)$")


def api_page(made: str) -> str:
    """The whole page."""
    names = [name for name in tracked_queue.__all__ if not name.startswith("_")]
    grouped = {name for group in GROUPS.values() for name in group}
    errors = [name for name in names if _is_error(getattr(tracked_queue, name))]
    others = [name for name in names if name not in grouped and name not in errors]
    parts = [
        "# Interface\n\n", made,
        "What can be imported from `tracked_queue`, and from the modules named below. What is not here is not part of the interface.\n\n",
    ]  # fmt: skip
    for title, group in {**GROUPS, "Other values": tuple(others)}.items():
        parts.append(f"## {title}\n\n")
        parts += [_thing(name, getattr(tracked_queue, name)) for name in group]
    parts.append(
        "## Errors\n\n```\n" + textwrap.dedent((tracked_queue.errors.__doc__ or "").split("\n\n")[1]) + "\n```\n\n"
    )
    for module, title in MODULES.items():
        parts.append(f"## {title}\n\n`{module}`: {_prose((_tree(module)[0] or '').strip())}\n\n")
        parts += [_parsed(node) for node in _public(module)]
    return re.sub(r"\n{3,}", "\n\n", "".join(parts)).rstrip() + "\n"


def _is_error(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, tracked_queue.TrackedQueueError)


def _thing(name: str, value: Any) -> str:
    """A class or a function of the package, with what a class has."""
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return f"### {name}\n\n`{_short(repr(value))}`\n\n"
    module = inspect.getmodule(value)
    assert module is not None
    node = _node(module, value.__qualname__)
    return f"### {name}\n\n`{value}`\n\n" if node is None else _parsed(node, value if inspect.isclass(value) else None)


def _node(module: ModuleType, name: str) -> Any:
    tree = ast.parse(inspect.getsource(module))
    return next((node for node in tree.body if getattr(node, "name", "") == name), None)


def _tree(module: str) -> tuple[str | None, ast.Module]:
    path = SOURCE.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(path.read_text("utf-8"))
    return ast.get_docstring(tree), tree


def _public(module: str) -> Iterator[Any]:
    """The definitions behind a module's names, without importing it: its package may not be installed."""
    _, tree = _tree(module)
    named = next(
        (
            ast.literal_eval(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets)
        ),
        None,
    )
    from_where = {
        alias.asname or alias.name: "." * node.level + (node.module or "")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }
    if named is None:
        named = [
            node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_"
        ]
    for name in sorted(named, key=str.lower):
        own = next((node for node in tree.body if getattr(node, "name", "") == name), None)
        if own is None and name in from_where:
            package = module if (SOURCE.joinpath(*module.split(".")[1:])).is_dir() else module.rpartition(".")[0]
            target = importlib.util.resolve_name(from_where[name], package)
            own = next((node for node in _tree(target)[1].body if getattr(node, "name", "") == name), None)
        if own is not None:
            yield own


def _parsed(node: Any, value: Any = None) -> str:
    """A definition as Markdown."""
    text = [f"### {node.name}\n\n", f"```python\n{_signature(node, value)}\n```\n\n", _docs(node)]
    if isinstance(node, ast.ClassDef):
        for item in node.body:
            if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and not item.name.startswith("_"):
                decorators = [ast.unparse(one) for one in item.decorator_list]
                if "overload" in decorators or any(one.endswith(".setter") for one in decorators):
                    continue
                text += [f"**`{_call(item, decorators)}`**\n\n", _docs(item)]
        for base in () if value is None else value.__mro__[1:]:
            if base.__module__.startswith("tracked_queue") and base.__name__ in tracked_queue.__all__:
                text.append(f"Also what [{base.__name__}](#{base.__name__.lower()}) has.\n\n")
                break
    return "".join(text)


def _signature(node: Any, value: Any) -> str:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return ("async " if isinstance(node, ast.AsyncFunctionDef) else "") + f"def {_call(node, [])}"
    init = next((item for item in node.body if getattr(item, "name", "") == "__init__"), None)
    if init is not None:
        return f"{node.name}{_arguments(init, drop_self=True)}"
    if dataclasses.is_dataclass(value) or any("dataclass" in ast.unparse(one) for one in node.decorator_list):
        fields = [
            ast.unparse(item) for item in node.body if isinstance(item, ast.AnnAssign) and not ast.unparse(item.target).startswith("_")
            and "init=False" not in ast.unparse(item)
        ]  # fmt: skip
        return _wrapped(f"{node.name}(", fields, ")")
    return f"class {node.name}"


def _call(node: Any, decorators: list[str]) -> str:
    if any(one in ("property", "cached_property") for one in decorators):
        returns = f": {ast.unparse(node.returns)}" if node.returns else ""
        return f"{node.name}{returns}"
    before = "await " if isinstance(node, ast.AsyncFunctionDef) else ""
    drop = bool(node.args.args) and node.args.args[0].arg in ("self", "cls")
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    return f"{before}{node.name}{_arguments(node, drop_self=drop, wrap=False)}{returns}"


def _arguments(node: Any, *, drop_self: bool, wrap: bool = True) -> str:
    given = ast.unparse(node.args)
    if drop_self:
        given = re.sub(r"^(self|cls)(: [^,]+)?(, )?", "", given)
    given = re.sub(r"^/, ", "", re.sub(r"\*wrong: Never, ", "*, ", given))
    parts = [_spaced(part) for part in _split(given)]
    return _wrapped("(", parts, ")") if wrap else f"({', '.join(parts)})"


def _spaced(part: str) -> str:
    """`name: str | None = None`, as people write it."""
    depth = 0
    for at, char in enumerate(part):
        depth += (char in "([{") - (char in ")]}")
        if char == "=" and not depth and ":" in part[:at]:
            return f"{part[:at].rstrip()} = {part[at + 1 :].lstrip()}"
    return part


def _split(text: str) -> list[str]:
    parts, depth, begun = [], 0, 0
    for at, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == "," and not depth:
            parts.append(text[begun:at].strip())
            begun = at + 1
    return [*parts, text[begun:].strip()] if text.strip() else []


def _wrapped(before: str, parts: list[str], after: str) -> str:
    line = before + ", ".join(parts) + after
    return line if len(line) <= 100 else before + "\n" + "".join(f"    {part},\n" for part in parts) + after


def _docs(node: Any) -> str:
    """A docstring, its sections as lists."""
    text = ast.get_docstring(node) or ""
    out: list[str] = []
    section = ""
    for line in text.splitlines():
        found = SECTION.match(line)
        if found:
            section = found[1]
            if section == "Source":
                page = found[2].rstrip(".")
                linked = re.sub(r"docs/([\w/-]+\.md)", lambda path: f"[{path[1]}](../{path[1]})", page)
                out.append(f"\nMore: {linked}")
                section = "" if found[2] else section
            else:
                out.append(f"\n*{section}*" + (f": {found[2]}" if found[2] else "") + "\n")
        elif section and line.startswith("    "):
            inner = line[4:]
            if inner.startswith(" "):
                out.append(f"  {inner.strip()}")
            else:
                name, colon, rest = inner.partition(": ")
                is_named = colon and re.fullmatch(r"[\w*, .()]+", name)
                out.append(f"- `{name}`: {rest}" if is_named and section != "Returns" else f"- {inner}")
        else:
            section = "" if line.strip() else section
            out.append(line)
    return _prose("\n".join(out)) + "\n\n"


def _prose(text: str) -> str:
    """No raw HTML, no accidental emphasis of `*args`."""
    text = re.sub(r"(?<![\w/(\[])docs/([\w/-]+\.md)(?!\]|\))", r"[\1](../\1)", text)
    outside = re.split(r"(`[^`]*`)", text)
    return "".join(
        part
        if part.startswith("`")
        else part.replace("<", "&lt;").replace("*args", "\\*args").replace("**k", "\\*\\*k")
        for part in outside
    )


def _short(text: str) -> str:
    return text if len(text) < 200 else text[:197] + "..."
