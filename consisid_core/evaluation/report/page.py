"""The report of a run as one HTML file, which opens without a network, light or dark."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..results import output_folder
from .charts import as_data_uris, course_plot, distribution_plot
from .render import render
from .summary import Summary, figure_of
from .wording import number, shown_metrics


def page(summaries: list[Summary], protocol: str, run_dir: Path, **common: Any) -> str:
    """The page as text.

    Args:
        summaries: of `summary.summarise`.
        protocol: "strict" or "paper".
        run_dir: folder of the manifest, to which the page links.
        common: what all forms of the report have in common (`files.write_report`).

    Raises:
        ConsisIDError: matplotlib or jinja2 is not installed.
    """
    metrics = shown_metrics(summaries, protocol)
    own_head, *own_rows = ([line[0], *line[4:]] for line in (common["head"], *common["rows"]))
    return render(
        "page.html.j2",
        **common,
        protocol=protocol,
        name=run_dir.resolve().name,
        charts=_charts(summaries, protocol),
        own_head=own_head,
        own_rows=own_rows,
        metrics=metrics,
        videos=[_video(result, metrics, run_dir) for summary in summaries for result in summary.results],
    )


def _charts(summaries, protocol):
    systems = {summary.system: (summary.scored, summary.scores) for summary in summaries if summary.scored}
    charts = {"distribution": distribution_plot, "course": course_plot}
    return {name: as_data_uris(draw, systems, protocol) for name, draw in charts.items()} if systems else {}


def _video(result, metrics, run_dir):
    """A video with its figures or what went wrong."""
    is_there = os.path.isfile(run_dir / result["video"])
    video = {"name": result["video"], "address": _address(run_dir, result["video"]) if is_there else None}
    video |= {name: result[name] for name in ("system", "prompt", "seed")} | {"error": result.get("error")}
    if "error" not in result:
        figures = [number(figure_of(result, metric), metric.digits) for metric in metrics]
        video["figures"] = [result["frames"], result["frames_without_face"], *figures]
    return video


def _address(run_dir, video):
    """From the page to a video: relative, so that the run's folder can be moved."""
    try:
        path = os.path.relpath(run_dir / video, output_folder(run_dir))
    except ValueError:  # Windows: on another drive.
        return (run_dir / video).absolute().as_uri()
    return quote(Path(path).as_posix())
