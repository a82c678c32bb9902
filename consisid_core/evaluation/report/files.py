"""The files of a run's report: one summary per system, as Markdown, CSV, rows for LaTeX, and a page for the browser."""

import csv
from pathlib import Path

from ..protocol import Score
from ..results import output_folder, whole_file
from .page import page
from .paper_tables import PAPER_TABLES, WARNING
from .render import render
from .summary import TrueFid, metrics, summarise
from .wording import beside, notes_of, paper_table, summary_table


def write_report(run_dir: Path | str, results: list[dict], nets: dict, protocol: str) -> Path:
    """Write summary_, table_ and report_<protocol> into `evaluation`.

    Args:
        run_dir: folder of the manifest.
        results: of `batch.score_rows`.
        nets: names of the nets, as there.
        protocol: "strict" or "paper".

    Returns:
        Path of the page.

    Raises:
        ConsisIDError: jinja2 is not installed, which all but the CSV file need, or matplotlib, which the page needs.
        OSError: a file cannot be written.
    """
    folder = output_folder(run_dir)
    folder.mkdir(exist_ok=True)
    summaries = summarise(results, protocol, folder)
    _write_csv(folder / f"summary_{protocol}.csv", summaries, nets, protocol)
    head, rows = summary_table(summaries, protocol)
    common = {
        "notes": notes_of(summaries, nets, protocol),
        "nets": nets,
        "head": head,
        "rows": rows,
        "beside": beside(protocol, nets),
        "warning": WARNING,
        "paper_tables": [_paper_values(table) for table in PAPER_TABLES],
    }
    failed = [
        (result["system"], result["video"], result["error"])
        for summary in summaries
        for result in summary.results
        if "error" in result
    ]
    _write(folder / f"summary_{protocol}.md", render("summary.md.j2", **common, protocol=protocol, failed=failed))
    _write(folder / f"table_{protocol}.tex", render("table.tex.j2", **common))
    report = folder / f"report_{protocol}.html"
    _write(report, page(summaries, protocol, Path(run_dir), **common))
    return report


def _write(path, text):
    with whole_file(path) as file:
        file.write_text(text, encoding="utf-8")


def _write_csv(path, summaries, nets, protocol):
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
    with whole_file(path) as file, open(file, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _paper_values(table):
    head, rows = paper_table(table)
    about = f"Measured on: {table.samples}. {table.notes}".rstrip()
    return {"id": table.id, "caption": table.caption, "about": about, "head": head, "rows": rows}
