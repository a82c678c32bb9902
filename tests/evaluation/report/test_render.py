"""Names in every form of the report."""

import re
import sys

import pytest
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.evaluation.report.render import in_latex, in_markdown, one_line, render
from helpers.evaluation import HOSTILE


def test_names_are_escaped_in_markdown_and_latex(scored):
    text = (scored / "evaluation/summary_strict.md").read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if "100%" in line and "±" in line)
    # As CommonMark reads it: cells end at bars without a backslash, and a backslash is taken off before punctuation.
    name = re.split(r"(?<!\\)\|", line)[1].strip()
    assert re.sub(r"\\([^\w\s]|_)", r"\1", name) == HOSTILE
    assert not re.search(r"(?<!\\)[<>*_`$&]", name)
    text = (scored / "evaluation/table_strict.tex").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if not line.startswith("%")]
    assert len(rows) == 2
    assert rows[0].startswith("ours (demo weights) & 2 & 3 & ")
    assert rows[1].startswith(
        r"\textless{}b\textgreater{}A\&B\textless{}/b\textgreater{} | 100\%\_\$x\$ \textbackslash{} "
        r""""q" 'p' \#1 \textasciitilde{}\textasciicircum{}\{\} (demo weights) & """
    )
    assert all(row.endswith(r" \\") and len(re.findall(r"(?<!\\)&", row)) == 4 for row in rows)
    assert not any(re.search(r"(?<!\\)%", row) for row in rows)


def test_escapes():
    assert in_markdown("a|b\n_c_ <d> & $1") == r"a\|b \_c\_ \<d\> \& \$1"
    assert in_latex("50% ± 1\n– {x}~") == r"50\% $\pm$ 1 -- \{x\}\textasciitilde{}"
    assert one_line(" a\n\tb ") == "a b"


def test_without_jinja2_it_is_an_error_in_words(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ConsisIDError, match="A report needs the Python package jinja2, .*: pip install jinja2"):
        render("table.tex.j2")
