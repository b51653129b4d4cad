"""What all pages are made by: templates, figures, and files that are replaced at once.

A page extends ``base.html.j2``, which has the look of all of them. It holds everything it
shows; nothing is fetched, and it has no date: the same records give the same bytes.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from rfm.errors import UserError
from rfm.reporting import style


def render(template: str, svgs: Mapping[str, str], **values: Any) -> str:
    """A page from the template of that name; its figures are given as SVG."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rfm.reporting", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(
        svgs={name: Markup(style.inline_svg(svg, name)) for name, svg in svgs.items()},
        colours=style.COLOURS,
        **values,
    )


def figure_files(
    names: Iterable[str], drawn: Mapping[str, Figure]
) -> tuple[dict[str, str], dict[str, str | bytes | None]]:
    """SVGs by name, and files by path; a figure of `names` that is not drawn has no content."""
    svgs = {name: style.svg(figure) for name, figure in drawn.items()}
    files: dict[str, str | bytes | None] = {}
    for name in names:
        figure = drawn.get(name)
        files[f"report/figures/{name}.svg"] = svgs.get(name)
        files[f"report/figures/{name}.png"] = style.png(figure) if figure else None
    return svgs, files


def write_all(folder: Path, contents: Mapping[str, str | bytes | None]) -> None:
    """Replaces each file below `folder` at once, or removes it where there is no content.

    Raises:
      UserError: one cannot be written; it is as it was.
    """
    for name, content in contents.items():
        _write(folder / name, content)


def _write(path: Path, content: str | bytes | None) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if content is None:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
