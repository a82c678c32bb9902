"""The report's templates, filled in. What a manifest or an error says stays text in every form."""

import re
from pathlib import Path
from typing import Any

from ...errors import ConsisIDError
from .wording import NONE

_TEMPLATES = Path(__file__).parent / "templates"

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", NONE: "--",
    "±": r"$\pm$",
}  # fmt: skip


def render(template: str, **values: Any) -> str:
    """A template with these values. HTML escapes all of them by itself; the other forms say by which filter.

    Args:
        template: name in `templates`.
        values: what the template speaks of.

    Raises:
        ConsisIDError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise ConsisIDError(
            f"A report needs the Python package jinja2, which does not import here ({error}): pip install jinja2"
        ) from None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=lambda name: name.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"markdown": in_markdown, "latex": in_latex, "one_line": one_line}
    return environment.get_template(template).render(values)


def in_markdown(text: str) -> str:
    """Text for Markdown, a cell of a table included."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&])", r"\\\1", one_line(text))


def in_latex(text: str) -> str:
    """Text for LaTeX, a cell of a tabular included."""
    return "".join(_LATEX.get(character, character) for character in one_line(text))


def one_line(text: str) -> str:
    """Text without line breaks."""
    return " ".join(text.split())
