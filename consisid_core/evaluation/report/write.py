"""The report of a run: one summary per system, as Markdown, CSV, rows for LaTeX, and a page for the browser."""

import csv
import re
from pathlib import Path

from ..batch import output_folder
from ..face_similarity import Score
from .page import page
from .paper_tables import PAPER_TABLES, WARNING
from .summary import NONE, TrueFid, beside, metrics, notes_of, paper_table, summarise, summary_table


def write_report(run_dir, results, nets, protocol):
    """Write summary_, table_ and report_<protocol> into `evaluation`.

    Args:
        run_dir: folder of the manifest.
        results, nets, protocol: of `batch.score_rows`.

    Returns:
        Path of the page.

    Raises:
        ConsisIDError: matplotlib is not installed; all files but the page are written then.
        OSError: a file cannot be written.
    """
    folder = output_folder(run_dir)
    folder.mkdir(exist_ok=True)
    summaries = summarise(results, protocol, folder)
    notes = notes_of(summaries, nets, protocol)
    _write_csv(folder / f"summary_{protocol}.csv", summaries, nets, protocol)
    for name, text in (
        (f"summary_{protocol}.md", _markdown(summaries, notes, nets, protocol)),
        (f"table_{protocol}.tex", _latex(summaries, notes, nets, protocol)),
        (f"report_{protocol}.html", page(summaries, notes, nets, protocol, Path(run_dir))),
    ):
        (folder / name).write_text(text, encoding="utf-8")
    return folder / f"report_{protocol}.html"


def _write_csv(file, summaries, nets, protocol):
    """Numbers in full, for other programs."""
    rows = []
    for summary in summaries:
        row = {
            "protocol": protocol,
            "system": summary.system,
            "videos": len(summary.results),
            "missing": summary.missing,
            "share_of_frames_without_face": summary.faceless,
        }
        for metric in metrics(protocol):
            score = summary.scores[metric.key] or Score(None, None, 0)
            row[f"{metric.key}_mean"] = score.mean
            row[f"{metric.key}_standard_error"] = score.standard_error
            row[f"{metric.key}_n"] = score.count
        if protocol == "strict":
            one = summary.fid or TrueFid(None, 0, 0)
            row |= {"true_fid": one.value, "true_fid_faces": one.faces, "true_fid_photos": one.photos}
        rows.append(row | {**nets, "stand_ins": ";".join(nets["stand_ins"])})
    with open(file, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _markdown(summaries, notes, nets, protocol):
    head, rows = summary_table(summaries, protocol)
    lines = [f"# Identity report, {protocol} protocol", "", *(f"- {_in_markdown(note)}" for note in notes), ""]
    lines += _markdown_table(head, rows)
    failed = [result for summary in summaries for result in summary.results if "error" in result]
    if failed:
        lines += ["", "## Videos without scores", ""]
        lines += _markdown_table(
            ["system", "video", "why"],
            [[result["system"], result["video"], result["error"]] for result in failed],
            align="---",
        )
    lines += ["", "## The paper's tables", "", beside(protocol, nets), "", f"**{WARNING}**"]
    for table in PAPER_TABLES:
        lines += [
            "",
            f"### {table.id}: {table.caption}",
            "",
            f"Measured on: {table.samples}. {table.notes}".rstrip(),
            "",
        ]
        lines += _markdown_table(*paper_table(table))
    return "\n".join(lines) + "\n"


def _markdown_table(head, rows, align="---:"):
    lines = ["| " + " | ".join(map(_in_markdown, cells)) + " |" for cells in (head, *rows)]
    return [lines[0], "|---" + f"|{align}" * (len(head) - 1) + "|", *lines[1:]]


def _in_markdown(text):
    return re.sub(r"([\\`*_{}\[\]<>#|~$&])", r"\\\1", _one_line(text))


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", NONE: "--",
}  # fmt: skip


def _latex(summaries, notes, nets, protocol):
    """Rows for a tabular, after comments that say what they hold."""
    head, rows = summary_table(summaries, protocol, plus_minus=" $\\pm$ ")
    lines = [f"% {_one_line(note)}" for note in notes] + ["% " + " & ".join(head)]
    for system, *cells in rows:
        mark = " (demo weights)" if nets["stand_ins"] else ""
        cells = [cell.replace("%", r"\%").replace(NONE, "--") for cell in cells]
        lines.append(" & ".join([_in_latex(system) + mark, *cells]) + r" \\")
    return "\n".join(lines) + "\n"


def _in_latex(text):
    return "".join(_LATEX.get(character, character) for character in _one_line(text))


def _one_line(text):
    return " ".join(text.split())
