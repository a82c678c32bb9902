"""The plots of a run's report: how its systems differ, and how likeness changes over a video. SVG, for a browser."""

from __future__ import annotations

import base64
import io
import logging
import textwrap
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plots import THEMES, Theme, new_figure, style
from ..protocol import PAPER_FRAMES, Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAME_WIDTH = 24  # characters
_MOMENTS = {"strict": 49, "paper": PAPER_FRAMES}  # at which videos of any length are compared; 49 frames are ConsisID's


def as_data_uris(draw: Callable[..., Figure], *arguments: Any) -> dict[str, str]:
    """`data:` addresses of the SVG of a plot in every theme. Text stays text: a browser has fonts for any script.

    Args:
        draw: gives the Figure; it is called with the theme after the arguments.
        arguments: its first ones.

    Returns:
        theme's name -> address.
    """
    import matplotlib

    # The salt gives the same plot the same bytes.
    settings = {"svg.fonttype": "none", "svg.hashsalt": "consisid"}
    uris = {}
    for name, theme in THEMES.items():
        stream = io.BytesIO()
        with matplotlib.rc_context(settings), warnings.catch_warnings(), _without_font_messages():
            warnings.filterwarnings("ignore", "Glyph .* missing")
            draw(*arguments, theme).savefig(stream, format="svg", metadata={"Date": None})
        uris[name] = "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode()
    return uris


class _without_font_messages:
    """matplotlib measures text with its own fonts and logs what these lack."""

    def __enter__(self):
        self.log = logging.getLogger("matplotlib.font_manager")
        self.level = self.log.level
        self.log.setLevel(logging.ERROR)

    def __exit__(self, *error):
        self.log.setLevel(self.level)


def distribution_plot(
    systems: dict[str, tuple[list[dict], dict[str, Score | None]]], protocol: str, theme: Theme
) -> Figure:
    """Every video's likeness by system: points, the quartiles as a box, the mean with its standard error.

    Args:
        systems: name -> (scored results, metric's key -> Score), the first on top.
        protocol: "strict" or "paper".
        theme: colours.
    """
    kinds = {"face_sim_arc": "FaceSim-Arc", "face_sim_cur": "FaceSim-Cur"}
    kinds = {key: name for key, name in kinds.items() if any(scores[key] for _, scores in systems.values())}
    figure = new_figure(theme, 1100, 130 + 52 * len(systems))
    panels = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    random = np.random.default_rng(0)
    for axes, (key, name) in zip(panels, kinds.items(), strict=True):
        style(axes, theme, f"{name}, one point per video ({protocol})", name, "")
        lowest = 0
        for place, (results, scores) in enumerate(systems.values()):
            values = np.array([result[key] for result in results])
            color = theme.curves[place % len(theme.curves)]
            axes.plot(
                values, place + random.uniform(-0.22, 0.22, len(values)), "o", color=color, markersize=5, alpha=0.6,
                markeredgewidth=0,
            )  # fmt: skip
            low, high = np.quantile(values, (0.25, 0.75))
            axes.barh(place, high - low, 0.56, low, facecolor="none", edgecolor=theme.text, linewidth=1)
            axes.errorbar(
                scores[key].mean, place, xerr=scores[key].standard_error, fmt="D", color=theme.text, markersize=6,
                capsize=4,
            )  # fmt: skip
            lowest = min(lowest, values.min())
        axes.set_xlim(lowest - 0.03, 1.02)
    panels[0].set_ylim(len(systems) - 0.5, -0.5)
    panels[0].set_yticks(range(len(systems)), [_short(name) for name in systems], parse_math=False)
    return figure


def course_plot(systems: dict[str, tuple[list[dict], dict[str, Score | None]]], protocol: str, theme: Theme) -> Figure:
    """FaceSim-Arc from the first to the last frame: median and quartiles over the videos of each system.

    Args:
        systems, protocol, theme: as of `distribution_plot`.
    """
    columns = min(3, len(systems))
    rows = -(-len(systems) // columns)
    figure = new_figure(theme, 1100, 60 + 250 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    moments = np.linspace(0, 1, _MOMENTS[protocol])
    courses = {name: _courses(results, moments, protocol) for name, (results, _) in systems.items()}
    for place, (axes, (name, course)) in enumerate(zip(panels, courses.items(), strict=False)):
        style(axes, theme, "", "", "")
        axes.set_title(
            f"{_short(name)} (n = {len(course)})", color=theme.text, fontsize=12, loc="left", parse_math=False
        )
        color = theme.curves[place % len(theme.curves)]
        low, middle, high = (
            np.array([np.nanquantile(column, q) if not np.isnan(column).all() else np.nan for column in course.T])
            for q in (0.25, 0.5, 0.75)
        )
        if len(course) > 1:
            axes.fill_between(moments, low, high, color=color, alpha=0.3, linewidth=0)
        axes.plot(moments, middle, color=color, linewidth=2)
        axes.set_ylim(min(0, np.nanmin(np.append(low, 0)) - 0.05), 1.02)
    for axes in panels[len(systems) :]:
        axes.set_visible(False)
    panels[0].set_xticks((0, 0.5, 1), ("first", "middle", "last"))
    for axes in panels[: len(systems)]:
        # Those with no panel below them name the moments.
        is_lowest = list(panels).index(axes) + columns >= len(systems)
        axes.tick_params(labelbottom=is_lowest)
    figure.supxlabel("frame", color=theme.text, fontsize=11)
    figure.supylabel("FaceSim-Arc", color=theme.text, fontsize=11)
    return figure


def _courses(results, moments, protocol):
    """[videos, moments] cosine of the frame nearest to each moment. Without a face: 0 in the strict protocol."""
    rows = []
    for result in results:
        cosines = np.array(result["cosines_arc"], np.float64)
        rows.append(cosines[np.rint(moments * (len(cosines) - 1)).astype(int)])
    rows = np.stack(rows)
    return np.nan_to_num(rows, nan=0) if protocol == "strict" else np.maximum(rows, 0)


def _short(name):
    return textwrap.shorten(" ".join(name.split()), _NAME_WIDTH, placeholder="…") or name[: _NAME_WIDTH - 1] + "…"
