"""Plots of scores and spectra, by matplotlib without pyplot: nothing is shared between calls, threads or packs.

Every function returns a matplotlib Figure; `picture` turns it into pixels, its `savefig` into a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import optional_library
from .models import EvaluationModels
from .scores import VideoScores, in_words, stand_ins_of
from .spectrum import Spectrum, relative_log_amplitude

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 100


@dataclass(frozen=True)
class Theme:
    """Colours of a plot. Those of the curves are told apart in any kind of colour vision (Okabe and Ito's)."""

    background: str
    text: str
    grid: str
    curves: tuple[str, ...]


THEMES = {
    "dark": Theme("#202020", "#e6e6e6", "#4a4a4a", ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#d55e00")),
    "light": Theme("#ffffff", "#1a1a1a", "#d0d0d0", ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")),
}


def new_figure(theme: Theme, width: int, height: int) -> Figure:
    """An empty Figure in the colours of a Theme.

    Args:
        theme: its background is taken.
        width: pixels.
        height: pixels.

    Raises:
        ConsisIDError: matplotlib is not installed.
    """
    with optional_library("A plot"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    figure = Figure((width / _DPI, height / _DPI), _DPI, facecolor=theme.background, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def style(axes: Axes, theme: Theme, title: str, xlabel: str, ylabel: str) -> None:
    """Names and colours of a plot's axes."""
    axes.set_facecolor(theme.background)
    axes.set_title(title, color=theme.text, fontsize=13, loc="left")
    axes.set_xlabel(xlabel, color=theme.text, fontsize=11)
    axes.set_ylabel(ylabel, color=theme.text, fontsize=11)
    axes.tick_params(colors=theme.text, labelsize=10)
    axes.grid(color=theme.grid, linewidth=0.6)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_color(theme.grid)


def add_legend(axes: Axes, theme: Theme, **options: Any) -> None:
    """The names of the curves, on the plot's own background."""
    legend = axes.legend(fontsize=10, facecolor=theme.background, edgecolor=theme.grid, **options)
    for text in legend.get_texts():
        text.set_color(theme.text)


def picture(figure: Figure) -> np.ndarray:
    """uint8 [H, W, 3] RGB of a Figure."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def similarity_plot(scores: VideoScores, models: EvaluationModels, theme: Theme) -> Figure:
    """Likeness over the frames of a video, with its best and its worst frame."""
    face = scores.face
    figure = new_figure(theme, 1200, 520)
    if face.best is None:
        plot = figure.subplots()
    else:
        panels = figure.subplot_mosaic([["plot", "best"], ["plot", "worst"]], width_ratios=[2.6, 1])
        plot = panels["plot"]
        for name, frame in (("best", face.best), ("worst", face.worst)):
            panels[name].imshow(frame.picture)
            panels[name].set_axis_off()
            title = f"{name}: frame {frame.position}, {frame.cosine:.2f}"
            panels[name].set_title(title, color=theme.text, fontsize=11)
    style(plot, theme, f"Likeness over frames ({face.protocol} protocol)", "frame", "cosine similarity")
    marker = "o" if len(face.positions) <= 64 else None
    curves = {"FaceSim-Arc": face.arc, "FaceSim-Cur": face.curricular}
    for (name, values), color in zip(curves.items(), theme.curves, strict=False):
        if values is None:
            continue
        mean = face.score(values).mean
        plot.plot(face.positions, values, color=color, marker=marker, markersize=4, label=f"{name}, mean {mean:.3f}")
        plot.axhline(mean, color=color, linestyle="--", linewidth=1)
    missing = face.positions[np.isnan(face.arc)]
    if len(missing):
        plot.plot(missing, np.zeros(len(missing)), "x", color=theme.text, label=f"no face ({len(missing)} frames)")
    values = np.concatenate([values[~np.isnan(values)] for values in curves.values() if values is not None])
    plot.set_ylim(min(0, values.min(initial=0) - 0.05), 1.02)
    plot.set_xlim(face.positions.min() - 0.5, face.positions.max() + 0.5)
    plot.xaxis.get_major_locator().set_params(integer=True)
    add_legend(plot, theme, loc="lower left")
    warn_of_stand_ins(figure, stand_ins_of(scores, models), theme)
    return figure


def comparison_table(rows: Sequence[tuple[str, VideoScores]], models: EvaluationModels, theme: Theme) -> Figure:
    """Scores of several videos in a table, above their likeness over time.

    Args:
        rows: what to call each video, and its scores, all of one protocol.
        models: that measured them.
        theme: colours.
    """
    figure = new_figure(theme, 1200, 460 + 34 * len(rows))
    top, plot = figure.subplots(2, 1, height_ratios=[34 * (len(rows) + 1), 380])
    top.set_axis_off()
    cells = [_table_row(scores) for _, scores in rows]
    columns = [column for column in cells[0] if any(row[column] for row in cells)]
    table = top.table(
        [[_shortened(name), *(row[column] for column in columns)] for (name, _), row in zip(rows, cells, strict=True)],
        colLabels=["video", *columns],
        colWidths=[0.28, *[0.72 / len(columns)] * len(columns)],
        cellLoc="left",
        bbox=(0, 0, 1, 1),
    )
    table.auto_set_font_size(False)
    table.set_fontsize(11)
    for (row, _), cell in table.get_celld().items():
        cell.set_facecolor(theme.background)
        cell.set_edgecolor(theme.grid)
        cell.get_text().set_color(theme.text)
        if row == 0:
            cell.get_text().set_weight("bold")
    protocol = rows[0][1].protocol
    style(plot, theme, f"FaceSim-Arc over time ({protocol} protocol)", "part of the video", "cosine similarity")
    lowest = 0.0
    for i, (name, scores) in enumerate(rows):
        face = scores.face
        lowest = min(lowest, np.nanmin(face.arc, initial=0))
        time = np.linspace(0, 1, len(face.arc)) if len(face.arc) > 1 else [0.5]
        curve = {"color": theme.curves[i % len(theme.curves)], "label": _shortened(name)}
        plot.plot(time, face.arc, marker="o" if len(face.arc) <= 64 else None, markersize=4, **curve)
    plot.set_xlim(-0.01, 1.01)
    plot.set_ylim(lowest - 0.05, 1.02)
    add_legend(plot, theme, loc="lower left")
    warn_of_stand_ins(figure, stand_ins_of(rows[0][1], models), theme)
    return figure


def _table_row(scores):
    """Column -> text; empty where it was not measured."""
    face, text = scores.face, scores.text
    fid = "FID of the paper" if scores.protocol == "paper" else "FID"
    return {
        "FaceSim-Arc": in_words(face.score(face.arc)),
        "FaceSim-Cur": "" if face.curricular is None else in_words(face.score(face.curricular)),
        "CLIPScore": "" if text is None else in_words(text.score, 2),
        fid: "" if face.fid is None else f"{face.fid:.2f}",
        "without a face": f"{face.frames_without_face} of {len(face.arc)}",
    }


def _shortened(name):
    return name if len(name) <= 36 else f"{name[:34]}…"


def spectrum_plot(spectrum: Spectrum, reference: Spectrum | None, region: str, theme: Theme) -> Figure:
    """Figure 3 of the paper: log amplitude over frequency, relative to a reference.

    Args:
        spectrum: what to draw.
        reference: what to compare with, or None for the lowest frequency.
        region: what of the pictures was looked at, for the title.
        theme: colours.

    Raises:
        ConsisIDError: the two have different frequencies.
    """
    figure = new_figure(theme, 1000, 560)
    plot = figure.subplots()
    against = "the lowest frequency" if reference is None else "the reference"
    title = f"Frequencies of {region}, {spectrum.count} pictures"
    style(plot, theme, title, "frequency (cycles per pixel)", f"log amplitude relative to {against}")
    values = relative_log_amplitude(spectrum, reference)
    plot.plot(spectrum.frequency, values, color=theme.curves[0], linewidth=2, label="images")
    if reference is not None:
        plot.axhline(0, color=theme.curves[1], linestyle="--", label=f"reference, {reference.count} pictures")
        add_legend(plot, theme)
    plot.set_xlim(0, spectrum.frequency[-1])
    return figure


def effect_plot(effect: Any, theme: Theme) -> Figure:
    """What each identity half changes at each step and frequency.

    Above, the amplitude of the change over steps and frequencies; below, how much of it lies in the upper half of the
    frequencies, and how large it is beside the prediction itself.

    Args:
        effect: `comfyui.identity_effect.IdentityEffect`.
        theme: colours.
    """
    figure = new_figure(theme, 1200, 820)
    panels = figure.subplot_mosaic([["global", "local"], ["share", "size"]])
    halves = {"global": effect.global_power, "local": effect.local_power}
    steps = np.arange(1, len(effect.sigmas) + 1)
    levels = {name: 0.5 * np.log10(np.where(power > 0, power, np.nan)) for name, power in halves.items()}
    seen = np.concatenate([level[np.isfinite(level)] for level in levels.values()])
    limits = (seen.min(), seen.max()) if len(seen) else (0, 1)
    extent = (0.5, len(steps) + 0.5, effect.frequency[0], effect.frequency[-1])
    for name, level in levels.items():
        axes = panels[name]
        style(axes, theme, f"Effect of the {name} half", "step", "cycles per latent pixel")
        shown = {"aspect": "auto", "origin": "lower", "extent": extent, "vmin": limits[0], "vmax": limits[1]}
        drawn = axes.imshow(level.T, cmap="viridis", interpolation="nearest", **shown)
        axes.grid(False)
    bar = figure.colorbar(drawn, ax=[panels["global"], panels["local"]])
    bar.set_label("log10 amplitude", color=theme.text)
    bar.ax.tick_params(colors=theme.text)
    style(panels["share"], theme, "How fine the effect is", "step", "share of the upper half of frequencies")
    style(panels["size"], theme, "How large the effect is", "step", "amplitude beside the prediction's")
    upper = effect.frequency > effect.frequency[-1] / 2
    with np.errstate(invalid="ignore"):
        for (name, power), color in zip(halves.items(), theme.curves, strict=False):
            amplitude = np.sqrt(power)
            share = amplitude[:, upper].sum(axis=1) / amplitude.sum(axis=1)
            size = amplitude.sum(axis=1) / np.sqrt(effect.prediction_power).sum(axis=1)
            panels["share"].plot(steps, share, "o-", color=color, markersize=4, label=name)
            panels["size"].plot(steps, size, "o-", color=color, markersize=4, label=name)
    for name in ("share", "size"):
        panels[name].set_ylim(bottom=0)
        panels[name].xaxis.get_major_locator().set_params(integer=True)
        add_legend(panels[name], theme)
    return figure


def warn_of_stand_ins(figure: Figure, stand_ins: Sequence[str], theme: Theme) -> None:
    """Write below a plot which of the nets that it was measured by are demo weights.

    Args:
        figure: with at least one plot.
        stand_ins: the nets' names, maybe none.
        theme: colours.
    """
    if stand_ins:
        note = f"Demo weights, no real measure: {', '.join(stand_ins)}"
        figure.supxlabel(note, color=theme.curves[1], fontsize=11)
