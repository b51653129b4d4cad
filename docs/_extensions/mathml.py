"""Formulas as MathML, which browsers draw themselves: no script, nothing to download."""

from typing import Any


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True}


def _inline(translator: Any, node: Any) -> None:
    translator.body.append(_mathml(node, block=False))
    _done()


def _block(translator: Any, node: Any) -> None:
    translator.body.append(f'<div class="formula">{_mathml(node, block=True)}</div>\n')
    _done()


def _mathml(node: Any, *, block: bool) -> str:
    from docutils.utils.math import latex2mathml

    return str(latex2mathml.tex2mathml(node.astext(), as_block=block))


def _done() -> None:
    from docutils import nodes

    raise nodes.SkipNode
