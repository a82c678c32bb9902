"""The report of a run: one summary per system, as Markdown, CSV, rows for LaTeX, and a page for the browser."""

import csv
import html
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from . import fid
from .batch import FID_FACES, output_folder
from .face_similarity import Score, mean_score
from .models import PAPER_PACK
from .paper_tables import PAPER_TABLES, WARNING
from .report_plots import as_data_uris, course_plot, distribution_plot

_NONE = "–"
_RULES = {
    "strict": "every frame; the face that matches best; a frame without a face counts 0",
    "paper": "as the paper's code computes it. Faces: 16 frames, the largest face, negative cosines raised to 0, "
    "frames without a face left out. CLIPScore: 16 frames, red and blue exchanged",
}


@dataclass(frozen=True)
class Metric:
    """A figure of every video, and how its mean is called and printed."""

    key: str
    """In the results and, with endings, in the CSV file."""
    name: str
    digits: int


_SCORES = (
    Metric("face_sim_arc", "FaceSim-Arc", 3),
    Metric("face_sim_cur", "FaceSim-Cur", 3),
    Metric("clip_score", "CLIPScore", 2),
)
_PAPER_FID = Metric("paper_fid", "paper's FID", 2)
"""Mean of the single pictures' distances, by which the paper's tables go. The true FID is no mean of videos."""


def metrics(protocol):
    """The metrics whose mean over videos a protocol reports."""
    return (*_SCORES, _PAPER_FID) if protocol == "paper" else _SCORES


@dataclass(frozen=True)
class TrueFid:
    """Fréchet distance of a system's faces to those of the photos."""

    value: float | None
    """None for fewer than two photos or faces."""
    photos: int
    faces: int


@dataclass(frozen=True, eq=False)
class Summary:
    """One system over its videos."""

    system: str
    results: list
    """Of all its videos (`batch.score_rows`), in the order of the manifest."""
    scores: dict
    """Metric's key -> Score over the videos that have it, or None."""
    fid: TrueFid | None
    """In the strict protocol, with Inception."""

    @property
    def scored(self):
        return [result for result in self.results if "error" not in result]

    @property
    def missing(self):
        return len(self.results) - len(self.scored)

    @property
    def faceless(self):
        """Share of the frames without a face, 0..1; None without frames."""
        frames = sum(result["frames"] for result in self.scored)
        return sum(result["frames_without_face"] for result in self.scored) / frames if frames else None


def summarise(results, protocol, folder):
    """List of Summary, the highest FaceSim-Arc first. results: of one protocol; folder: where their features lie."""
    systems = {}
    for result in results:
        systems.setdefault(result["system"], []).append(result)
    summaries = []
    for system, own in systems.items():
        scored = [result for result in own if "error" not in result]
        scores = {}
        for metric in metrics(protocol):
            values = [_figure(result, metric) for result in scored]
            values = [value for value in values if value is not None]
            scores[metric.key] = mean_score(values) if values else None
        summaries.append(Summary(system, own, scores, _true_fid(scored, folder)))
    return sorted(summaries, key=lambda s: (-s.scores["face_sim_arc"].mean if s.scored else np.inf, s.system))


def _figure(result, metric):
    return result["fid" if metric is _PAPER_FID else metric.key]


def _true_fid(scored, folder):
    """TrueFid of the faces that were kept; each photo counts once however many videos it was used for."""
    photos, faces = {}, []
    for result in scored:
        if "features" in result:
            with np.load(folder / result["features"]) as features:
                photos.update(zip(result["reference"], features["photos"], strict=True))
                faces.append(features["faces"])
    if not faces:
        return None
    photos, faces = np.stack(list(photos.values())), np.concatenate(faces)
    enough = min(len(photos), len(faces)) >= 2
    return TrueFid(fid.frechet_distance(photos, faces) if enough else None, len(photos), len(faces))


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
    notes = _notes(summaries, nets, protocol)
    _write_csv(folder / f"summary_{protocol}.csv", summaries, nets, protocol)
    for name, text in (
        (f"summary_{protocol}.md", _markdown(summaries, notes, nets, protocol)),
        (f"table_{protocol}.tex", _latex(summaries, notes, nets, protocol)),
        (f"report_{protocol}.html", _page(summaries, notes, nets, protocol, Path(run_dir))),
    ):
        (folder / name).write_text(text, encoding="utf-8")
    return folder / f"report_{protocol}.html"


# ---- words and numbers ---------------------------------------------------------------------------------------------


def _notes(summaries, nets, protocol):
    """What a reader has to know, a sentence each; the first ones are the most important."""
    notes = []
    if nets["stand_ins"]:
        notes.append(f"Demo weights, no real measure: {', '.join(nets['stand_ins'])}.")
    notes.append(f"Protocol {protocol}: {_RULES[protocol]}.")
    nets_of = {
        "FaceSim-Arc": f"insightface pack {nets['pack']}",
        "FaceSim-Cur": nets["curricular_face"],
        "CLIPScore": nets["clip"],
        "FID": nets["inception"],
    }
    notes.append("Measured by " + ", ".join(f"{net} ({score})" for score, net in nets_of.items() if net) + ".")
    if left_out := [score for score, net in nets_of.items() if not net]:
        notes.append(f"Not measured: {', '.join(left_out)}.")
    notes.append(
        "n: videos with scores. missing: videos without, which no mean includes. ±: standard error of the mean over "
        "videos."
    )
    if protocol == "paper" and nets["pack"] != PAPER_PACK:
        notes.append(f"The paper measures by {PAPER_PACK}: figures by {nets['pack']} do not compare with its tables.")
    if protocol == "paper" and nets["inception"]:
        notes.append(f"The {_PAPER_FID.name} is a squared distance of single pictures, no Fréchet distance of sets.")
    if fids := [summary.fid for summary in summaries if summary.fid]:
        notes.append(
            f"FID: the true Fréchet distance of at most {FID_FACES} faces of each video to the faces of all photos; in "
            "brackets the numbers of faces and photos."
        )
        if min(min(one.photos, one.faces) for one in fids) < fid.RELIABLE_SAMPLES:
            notes.append(
                f"Warning: below {fid.RELIABLE_SAMPLES} pictures in either set FID depends on their number. Compare "
                "systems only by sets of one size and the same photos."
            )
    cut = sum(result["prompt_cut"] for summary in summaries for result in summary.scored)
    if cut:
        notes.append(f"{cut} prompts are longer than CLIP reads; their ends did not count.")
    return notes


def _number(value, digits):
    return _NONE if value is None else f"{value:.{digits}f}"


def _mean(score, digits, count, plus_minus=" ± "):
    """A Score as "0.712 ± 0.008", with its n where that is not the n of the row."""
    if score is None:
        return _NONE
    error = "" if score.standard_error is None else f"{plus_minus}{score.standard_error:.{digits}f}"
    return f"{score.mean:.{digits}f}{error}" + (f" (n = {score.count})" if score.count != count else "")


def _summary_table(summaries, protocol, plus_minus=" ± "):
    """(names of the columns, a list of cells for each system)."""
    shown = [metric for metric in metrics(protocol) if any(summary.scores[metric.key] for summary in summaries)]
    has_fid = any(summary.fid for summary in summaries)
    head = ["system", "n", "missing", "frames without a face", *(metric.name for metric in shown)]
    rows = []
    for summary in summaries:
        count = len(summary.scored)
        cells = [summary.system, str(count), str(summary.missing), _share(summary.faceless)]
        cells += [_mean(summary.scores[metric.key], metric.digits, count, plus_minus) for metric in shown]
        if has_fid:
            cells.append(_NONE if summary.fid is None else _fid_cell(summary.fid))
        rows.append(cells)
    return head + ["FID (faces, photos)"] * has_fid, rows


def _fid_cell(one):
    return f"{_number(one.value, 2)} ({one.faces}, {one.photos})"


def _share(share):
    return _NONE if share is None else f"{share:.1%}"


# ---- CSV, Markdown, LaTeX ------------------------------------------------------------------------------------------


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
    head, rows = _summary_table(summaries, protocol)
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
    lines += ["", "## The paper's tables", "", _beside(protocol, nets), "", f"**{WARNING}**"]
    for table in PAPER_TABLES:
        lines += [
            "",
            f"### {table.id}: {table.caption}",
            "",
            f"Measured on: {table.samples}. {table.notes}".rstrip(),
            "",
        ]
        lines += _markdown_table(*_paper_table(table))
    return "\n".join(lines) + "\n"


def _markdown_table(head, rows, align="---:"):
    lines = ["| " + " | ".join(map(_in_markdown, cells)) + " |" for cells in (head, *rows)]
    return [lines[0], "|---" + f"|{align}" * (len(head) - 1) + "|", *lines[1:]]


def _in_markdown(text):
    return re.sub(r"([\\`*_{}\[\]<>#|~$&])", r"\\\1", _one_line(text))


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", _NONE: "--",
}  # fmt: skip


def _latex(summaries, notes, nets, protocol):
    """Rows for a tabular, after comments that say what they hold."""
    head, rows = _summary_table(summaries, protocol, plus_minus=" $\\pm$ ")
    lines = [f"% {_one_line(note)}" for note in notes] + ["% " + " & ".join(head)]
    for system, *cells in rows:
        mark = " (demo weights)" if nets["stand_ins"] else ""
        cells = [cell.replace("%", r"\%").replace(_NONE, "--") for cell in cells]
        lines.append(" & ".join([_in_latex(system) + mark, *cells]) + r" \\")
    return "\n".join(lines) + "\n"


def _in_latex(text):
    return "".join(_LATEX.get(character, character) for character in _one_line(text))


def _one_line(text):
    return " ".join(text.split())


def _beside(protocol, nets):
    if protocol == "strict":
        return (
            "The figures above are measured otherwise, by the strict protocol: they do not compare with these tables. "
            "--protocol paper gives figures that are computed as these were."
        )
    if nets["pack"] != PAPER_PACK or nets["stand_ins"]:
        return "The figures above are computed as these were, but by other nets: they do not compare with these tables."
    return (
        "The figures above are computed as these were. They compare only where people, photos and prompts are the same."
    )


def _paper_table(table):
    """(names of the columns, a list of cells for each row) as printed in the paper."""
    digits = [0 if name.startswith("seconds") else 2 for name in table.columns]
    rows = [
        [name, *(f"{value:.{d}f}" for value, d in zip(values, digits, strict=True))]
        if values
        else [name, "unstable", *[_NONE] * (len(table.columns) - 1)]
        for name, values in table.rows
    ]
    return ["", *table.columns], rows


# ---- page ----------------------------------------------------------------------------------------------------------

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


def _page(summaries, notes, nets, protocol, run_dir):
    name = run_dir.resolve().name
    head, rows = _summary_table(summaries, protocol)
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
    parts += [f"<p>{_beside(protocol, nets)}</p>", f'<p class="warn">{_in_html(WARNING)}</p>', '<div class="tables">']
    if protocol == "paper":
        own = [[_in_html(row[0]), *row[4:]] for row in rows]
        parts.append(
            f'<section class="own"><h3>This run: {_in_html(name)}</h3><p>Own figures, by {_in_html(nets["pack"])}'
            f"{', demo weights' if nets['stand_ins'] else ''}.</p>{_html_table([head[0], *head[4:]], own)}</section>"
        )
    for table in PAPER_TABLES:
        about = f"Measured on: {table.samples}. {table.notes}".rstrip()
        columns, cells = _paper_table(table)
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
            cells += [f"<td>{_number(_figure(result, metric), metric.digits)}</td>" for metric in shown]
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
