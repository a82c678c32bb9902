"""The report of a run as one HTML file, which opens without a network, light or dark."""

import html
import os
from pathlib import Path
from urllib.parse import quote

from ..batch import output_folder
from .page_plots import as_data_uris, course_plot, distribution_plot
from .paper_tables import PAPER_TABLES, WARNING
from .summary import beside, figure_of, metrics, number, paper_table, summary_table

_STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --text: #1a1a1a; --soft: #5c5c5c; --line: #d8d8d8;
  --panel: #f5f6f7; --link: #005ea8; --bad: #a4161a; --warn: #fff3cd; }
@media (prefers-color-scheme: dark) { :root { --back: #202020; --text: #e6e6e6; --soft: #a8a8a8; --line: #4a4a4a;
  --panel: #2a2a2a; --link: #7cc0f4; --bad: #ff8f8f; --warn: #4d4118; } }
body { background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 1240px; padding: 24px; }
h1 { font-size: 26px; margin: 0 0 8px; } h2 { font-size: 20px; margin: 36px 0 8px; } h3 { font-size: 16px; margin: 0; }
p, ul { margin: 8px 0; max-width: 90ch; } ul { padding-left: 20px; } a { color: var(--link); }
.scroll { overflow-x: auto; } img { width: 100%; min-width: 640px; height: auto; display: block; margin: 12px 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: 5px 10px; text-align: right; vertical-align: top; }
th { color: var(--soft); font-weight: 600; } td { white-space: nowrap; }
th:first-child, td:first-child, .words { text-align: left; white-space: normal; overflow-wrap: anywhere; }
td:first-child { min-width: 12ch; } .videos td:first-child, .videos td.words { min-width: 16ch; }
.error { color: var(--bad); }
.warn { background: var(--warn); border-radius: 6px; list-style: none; padding: 8px 12px; }
li.warn { margin: 4px 0 4px -20px; }
.tables { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 500px), 1fr)); }
.tables section { background: var(--panel); border-radius: 8px; padding: 14px; }
.tables section.own { outline: 2px solid var(--link); } .tables p { color: var(--soft); font-size: 13px; }
.tables th, .tables td { padding: 4px 6px; font-size: 13px; }
"""


def page(summaries, notes, nets, protocol, run_dir):
    """The page as text. summaries, notes: of `summary`; nets: of `batch.score_rows`; run_dir: a Path."""
    name = run_dir.resolve().name
    head, rows = summary_table(summaries, protocol)
    warn_class = ' class="warn"'
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        # Nothing but what is in this file is ever loaded.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">",
        f"<title>Identity report: {_in_html(name)}, {protocol} protocol</title><style>{_STYLE}</style></head><body>",
        f"<h1>Identity report: {_in_html(name)}</h1>",
        "<ul>",
        *(
            f"<li{warn_class if note.startswith(('Demo weights', 'Warning')) else ''}>{_in_html(note)}</li>"
            for note in notes
        ),
        "</ul>",
        f"<h2>Systems, {protocol} protocol</h2>",
        _html_table(head, [[_in_html(cell) for cell in row] for row in rows]),
    ]
    if systems := {summary.system: (summary.scored, summary.scores) for summary in summaries if summary.scored}:
        parts += [
            _picture(as_data_uris(distribution_plot, systems, protocol), "Likeness of every video, by system"),
            "<p>Box: the middle half of the videos. Diamond: the mean with its standard error.</p>",
            _picture(as_data_uris(course_plot, systems, protocol), "Likeness over the frames, by system"),
            "<p>Line: the median over the videos of a system, from their first frame to their last. Band: the middle "
            f"half. A frame without a face {'counts 0' if protocol == 'strict' else 'is left out'}.</p>",
        ]
    parts += ["<h2>Videos</h2>", _video_table(summaries, protocol, run_dir), "<h2>Beside the paper's tables</h2>"]
    parts += [f"<p>{beside(protocol, nets)}</p>", f'<p class="warn">{_in_html(WARNING)}</p>', '<div class="tables">']
    if protocol == "paper":
        own = [[_in_html(row[0]), *row[4:]] for row in rows]
        parts.append(
            f'<section class="own"><h3>This run: {_in_html(name)}</h3><p>Own figures, by {_in_html(nets["pack"])}'
            f"{', demo weights' if nets['stand_ins'] else ''}.</p>{_html_table([head[0], *head[4:]], own)}</section>"
        )
    for table in PAPER_TABLES:
        about = f"Measured on: {table.samples}. {table.notes}".rstrip()
        columns, cells = paper_table(table)
        parts.append(
            f"<section><h3>{table.id} of the paper: {_in_html(table.caption)}</h3><p>{_in_html(about)}</p>"
            f"{_html_table(columns, [[_in_html(cell) for cell in row] for row in cells])}</section>"
        )
    return "\n".join([*parts, "</div></body></html>"]) + "\n"


def _video_table(summaries, protocol, run_dir):
    """Every video with its figures or what went wrong, by system."""
    shown = [metric for metric in metrics(protocol) if any(summary.scores[metric.key] for summary in summaries)]
    head = ["video", "system", "prompt", "seed", "frames", "without a face", *(metric.name for metric in shown)]
    lines = []
    for result in (result for summary in summaries for result in summary.results):
        link = _in_html(result["video"])
        if os.path.isfile(run_dir / result["video"]):
            link = f'<a href="{_in_html(_address(run_dir, result["video"]))}">{link}</a>'
        cells = [f"<td>{link}</td>"]
        cells += [f'<td class="words">{_in_html(result[label])}</td>' for label in ("system", "prompt")]
        cells.append(f"<td>{_in_html(result['seed'])}</td>")
        if "error" in result:
            width = len(head) - len(cells)
            cells.append(f'<td class="words error" colspan="{width}">{_in_html(result["error"])}</td>')
        else:
            cells += [f"<td>{result['frames']}</td>", f"<td>{result['frames_without_face']}</td>"]
            cells += [f"<td>{number(figure_of(result, metric), metric.digits)}</td>" for metric in shown]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    words = ("system", "prompt")
    titles = "".join(f"<th{' class=words' if title in words else ''}>{title}</th>" for title in head)
    return f'<div class="scroll videos"><table><tr>{titles}</tr>\n' + "\n".join(lines) + "\n</table></div>"


def _address(run_dir, video):
    """From the page to a video: relative, so that the run's folder can be moved."""
    try:
        path = os.path.relpath(run_dir / video, output_folder(run_dir))
    except ValueError:  # Windows: on another drive.
        return (run_dir / video).absolute().as_uri()
    return quote(Path(path).as_posix())


def _html_table(head, rows):
    """rows hold HTML."""
    titles = "".join(f"<th>{_in_html(title)}</th>" for title in head)
    lines = ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return f'<div class="scroll"><table><tr>{titles}</tr>\n' + "\n".join(lines) + "\n</table></div>"


def _picture(uris, words):
    return (
        f'<div class="scroll"><picture><source media="(prefers-color-scheme: dark)" srcset="{uris["dark"]}">'
        f'<img src="{uris["light"]}" alt="{words}"></picture></div>'
    )


def _in_html(text):
    return html.escape(text)
