"""Signatures as they are written: ``x: Images``, not what `Images` stands for.

Annotations are values at run time, and those of jaxtyping are long. The source has the names
that the authors chose, and `rfm.types` says what they are; here names become links, also those
that pages mention as ``rfm.x.y``.
"""

import ast
import inspect
import re
import textwrap
from typing import Any


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", _signature)
    app.connect("missing-reference", _find)
    app.connect("doctree-read", _mention)
    return {"parallel_read_safe": True}


def _signature(
    app: Any, what: str, name: str, found: Any, options: Any, signature: str, returns: str
) -> tuple[str, str | None] | None:
    try:
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(found))).body
    except (TypeError, OSError, ValueError, SyntaxError):
        return None
    if isinstance(node, ast.FunctionDef):
        return _of_function(node, is_method=what == "method")
    if isinstance(node, ast.ClassDef) and what == "class":
        return _of_fields(found, node), None
    return None


def _of_function(node: ast.FunctionDef, *, is_method: bool) -> tuple[str, str | None]:
    arguments = node.args
    if is_method and arguments.args and arguments.args[0].arg in ("self", "cls"):
        arguments.args = arguments.args[1:]
    returned = ast.unparse(node.returns) if node.returns else None
    return _tidy(f"({ast.unparse(arguments)})"), _tidy(returned) if returned else None


def _of_fields(found: type, node: ast.ClassDef) -> str:
    """Of a dataclass or a named tuple: its fields; of other classes nothing."""
    if not (hasattr(found, "__dataclass_fields__") or hasattr(found, "_fields")):
        return ""
    fields = []
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            text = f"{statement.target.id}: {ast.unparse(statement.annotation)}"
            if statement.value is not None:
                text += f" = {ast.unparse(_default(statement.value))}"
            fields.append(text)
    return _tidy(f"({', '.join(fields)})")


def _default(value: ast.expr) -> ast.expr:
    """``dataclasses.field(default=None, ...)`` is None."""
    if isinstance(value, ast.Call):
        for keyword in value.keywords:
            if keyword.arg == "default":
                return keyword.value
    return value


def _tidy(text: str) -> str:
    """Jaxtyping's shapes of one dimension begin with a space, for the sake of linters."""
    return re.sub(r"' (\w+)'", r"'\1'", text)


def _find(app: Any, env: Any, node: Any, content: Any) -> Any:
    """A name of which there is one: `RelativeBall` is `rfm.perturb.RelativeBall`."""
    if node.get("refdomain") != "py":
        return None
    target, objects = node["reftarget"].removeprefix("."), env.domains["py"].objects
    ends = [name for name in objects if name == target or name.endswith(f".{target}")]
    # The same object may stand in its module, too.
    best = sorted(ends, key=lambda name: (name.count("."), name))
    if not best or (len(best) > 1 and best[0].count(".") == best[1].count(".")):
        return None
    from sphinx.util.nodes import make_refnode

    entry = objects[best[0]]
    document = node.get("refdoc", env.docname)
    return make_refnode(app.builder, document, entry.docname, entry.node_id, content, best[0])


def _mention(app: Any, doctree: Any) -> None:
    from docutils import nodes
    from sphinx.addnodes import pending_xref

    for node in list(doctree.findall(nodes.literal)):
        name = node.astext()
        if re.fullmatch(r"rfm(\.\w+)+", name) and not isinstance(node.parent, pending_xref):
            options = {"refdomain": "py", "reftype": "obj", "reftarget": name}
            link = pending_xref("", node.deepcopy(), refdoc=app.env.docname, **options)
            node.replace_self(link)
