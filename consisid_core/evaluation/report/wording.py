"""How the scores of a run are said, in every form of its report."""

from ..batch import FID_FACES
from ..models import PAPER_PACK
from ..nets import fid
from .paper_tables import PaperTable
from .summary import PAPER_FID, Metric, Summary, metrics

NONE = "–"
"""Stands for a figure that there is not."""

_RULES = {
    "strict": "every frame; the face that matches best; a frame without a face counts 0",
    "paper": "as the paper's code computes it. Faces: 16 frames, the largest face, negative cosines raised to 0, "
    "frames without a face left out. CLIPScore: 16 frames, red and blue exchanged",
}


def notes_of(summaries: list[Summary], nets: dict, protocol: str) -> list[str]:
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
        notes.append(f"The {PAPER_FID.name} is a squared distance of single pictures, no Fréchet distance of sets.")
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


def number(value: float | None, digits: int) -> str:
    """With so many digits behind the point, or NONE."""
    return NONE if value is None else f"{value:.{digits}f}"


def _mean(score, digits, count):
    """A Score as "0.712 ± 0.008", with its n where that is not the n of the row."""
    if score is None:
        return NONE
    error = "" if score.standard_error is None else f" ± {score.standard_error:.{digits}f}"
    return f"{score.mean:.{digits}f}{error}" + (f" (n = {score.count})" if score.count != count else "")


def shown_metrics(summaries: list[Summary], protocol: str) -> list[Metric]:
    """The metrics that any system has."""
    return [metric for metric in metrics(protocol) if any(summary.scores[metric.key] for summary in summaries)]


def summary_table(summaries: list[Summary], protocol: str) -> tuple[list[str], list[list[str]]]:
    """(names of the columns, a list of cells for each system)."""
    shown = shown_metrics(summaries, protocol)
    has_fid = any(summary.fid for summary in summaries)
    head = ["system", "n", "missing", "frames without a face", *(metric.name for metric in shown)]
    rows = []
    for summary in summaries:
        count = len(summary.scored)
        cells = [summary.system, str(count), str(summary.missing), _share(summary.faceless)]
        cells += [_mean(summary.scores[metric.key], metric.digits, count) for metric in shown]
        if has_fid:
            cells.append(NONE if summary.fid is None else _fid_cell(summary.fid))
        rows.append(cells)
    return head + ["FID (faces, photos)"] * has_fid, rows


def _fid_cell(one):
    return f"{number(one.value, 2)} ({one.faces}, {one.photos})"


def _share(share):
    return NONE if share is None else f"{share:.1%}"


def beside(protocol: str, nets: dict) -> str:
    """How own figures stand to the paper's tables, to be said above these."""
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


def paper_table(table: PaperTable) -> tuple[list[str], list[list[str]]]:
    """(names of the columns, a list of cells for each row) as printed in the paper."""
    digits = [0 if name.startswith("seconds") else 2 for name in table.columns]
    rows = [
        [name, *(f"{value:.{d}f}" for value, d in zip(values, digits, strict=True))]
        if values
        else [name, "unstable", *[NONE] * (len(table.columns) - 1)]
        for name, values in table.rows
    ]
    return ["", *table.columns], rows
