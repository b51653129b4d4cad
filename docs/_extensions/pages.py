"""What a site has and Markdown on GitHub has not, added while Sphinx reads the pages.

The tables are those of ``conf.py``: the front page gets the navigation, a page that lives
elsewhere in the repository its text, a page of the API reference its entries, and every link to
a file that is a page of the site leads to that page.
"""

import ast
import importlib
import importlib.util
import inspect
import os
import posixpath
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

KINDS = ("function", "class", "exception", "data")
LINK = re.compile(r"(\]\()([^)#:\s]+)(#[^)\s]*)?(\))")


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    for table in ("NAVIGATION", "ELSEWHERE", "API"):
        app.add_config_value(table, {}, "env")
    app.connect("source-read", _read)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True}


def _read(app: Any, docname: str, source: list[str]) -> None:
    docs, config = Path(app.srcdir), app.config
    path, text = docs / f"{docname}.md", source[0]
    if docname in config.ELSEWHERE:
        path = docs.parent / config.ELSEWHERE[docname]
        text = path.read_text()
        app.env.note_dependency(str(path))
    if docname in config.API:
        text = api_page(config.API[docname])
    else:
        text = with_links(text, path, docs, config.ELSEWHERE, docname)
    if docname == "index":
        text += "\n" + contents(config.NAVIGATION, docs)
    source[0] = text


def contents(navigation: dict[str, tuple[str, ...]], docs: Path) -> str:
    """The navigation as MyST's directives; pages that nobody named come last."""
    there = {path.relative_to(docs).with_suffix("").as_posix() for path in docs.rglob("*.md")}
    named = {page for pages in navigation.values() for page in pages}
    rest = tuple(sorted(there - named - {"index"}))
    sections = {**navigation, "More": rest} if rest else navigation
    parts = []
    for caption, pages in sections.items():
        found = [page for page in pages if page in there]
        parts.append("\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *found]))
    return "\n```\n\n".join(parts) + "\n```\n"


def with_links(text: str, path: Path, docs: Path, elsewhere: dict[str, str], docname: str) -> str:
    """Links that are relative to the file at `path` made relative to the page `docname`."""
    pages = {(docs.parent / file).resolve(): f"{page}.md" for page, file in elsewhere.items()}
    pages[(docs.parent / "README.md").resolve()] = "index.md"

    def replace(found: re.Match[str]) -> str:
        begin, target, anchor, end = found.groups()
        file = (path.parent / target).resolve()
        if file in pages:
            target = posixpath.relpath(pages[file], posixpath.dirname(docname) or ".")
        else:
            target = os.path.relpath(file, (docs / docname).parent)
        return f"{begin}{target}{anchor or ''}{end}"

    return LINK.sub(replace, text)


def api_page(modules: tuple[str, ...]) -> str:
    """A page of the API reference: every public name of some modules, from docstrings."""
    first, *others = (name for name in modules if importlib.util.find_spec(name))
    lines = [f"# {first}", "", *_entries(first)]
    for name in others:
        lines += ["", f"## {name}", "", *_entries(name, but=first)]
    return "\n".join(lines) + "\n"


def _entries(name: str, but: str | None = None) -> Iterator[str]:
    module = importlib.import_module(name)
    known = vars(importlib.import_module(but)).values() if but else ()
    yield from ("```{eval-rst}", f".. automodule:: {name}", "")
    members = public_names(module)
    if hasattr(module, "__path__"):  # a package re-exports by file; readers want verbs first
        members.sort(key=lambda member: KINDS.index(_kind(getattr(module, member))))
    for member in members:
        found = getattr(module, member)
        kind = _kind(found)
        if kind == "data":
            yield from _assignment(module, member)
            continue
        if any(found is other for other in known):
            continue  # the package has it already
        yield f".. auto{kind}:: {name}.{member}"
        if kind == "class":
            yield "   :members:"
            if "__call__" in vars(found):
                yield "   :special-members: __call__"
        yield ""
    yield "```"


def _assignment(module: ModuleType, name: str) -> Iterator[str]:
    """A constant or an alias as the source has it, with the string below it."""
    yield from (f".. py:data:: {name}", f"   :module: {module.__name__}")
    body = ast.parse(inspect.getsource(module)).body
    for node, following in zip(body, [*body[1:], None], strict=True):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if name in [getattr(target, "id", None) for target in targets]:
            value = ast.unparse(node.value).replace("' n'", "'n'")  # type: ignore[attr-defined]
            if len(value) < 100:
                yield f"   :value: {value}"
            match following:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield from ("", textwrap.indent(inspect.cleandoc(text), "   "))
    yield ""


def _kind(found: Any) -> str:
    if inspect.isclass(found) and "jaxtyping" not in repr(found):
        return "exception" if issubclass(found, BaseException) else "class"
    return "function" if inspect.isfunction(found) else "data"


def public_names(module: ModuleType) -> list[str]:
    """What a module defines, or re-exports by name (``import f as f``, ``__all__``), in order."""
    names: list[str] = []
    for node in ast.parse(inspect.getsource(module)).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.append(name)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                names.append(name)
            case ast.ImportFrom(names=aliases):
                names += [a.name for a in aliases if a.asname == a.name]
    names = list(getattr(module, "__all__", names))
    return [
        name
        for name in names
        if not name.startswith("_") and not inspect.ismodule(getattr(module, name))
    ]


def _skip(app: Any, what: str, name: str, found: Any, skip: bool, options: Any) -> bool | None:
    """Fields are described with their class, also those that are functions."""
    document = getattr(found, "__doc__", None) or ""
    is_alias = document.startswith("Alias for field number")
    is_default = inspect.isfunction(found) and "." not in found.__qualname__
    return True if is_alias or is_default else None
