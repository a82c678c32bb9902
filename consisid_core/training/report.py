"""What became of each video of a manifest, for people and for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..evaluation.results import whole_file

_SHOWN = 20  # videos named on the screen


def write_report(folder: Path, results: Sequence[dict], missing: int) -> str:
    """Write `report.json` and `report.txt` into a cache.

    Args:
        folder: of the cache.
        results: of each video that was looked at: name, and either clips and notes, or kind and refused or error.
        missing: videos that were not looked at yet.

    Returns:
        The text, without all but the first refused videos and remarks.
    """
    facts = {
        "videos": len(results) + missing,
        "clips": sum(len(result.get("clips", ())) for result in results),
        "people": len({clip["person"] for result in results for clip in result.get("clips", ())}),
        "masks": dict(Counter(clip["mask_source"] for result in results for clip in result.get("clips", ()))),
        "refused": dict(Counter(result["kind"] for result in results if "kind" in result)),
        "missing": missing,
        "results": results,
    }
    with whole_file(folder / "report.json") as file:
        file.write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
    with whole_file(folder / "report.txt") as file:
        file.write_text(_text(facts, None), encoding="utf-8")
    return _text(facts, _SHOWN)


def _text(facts, shown):
    clips, videos, people = facts["clips"], facts["videos"], facts["people"]
    refused = sum(facts["refused"].values())
    lines = [f"{clips} clips of {people} people, from {videos - refused - facts['missing']} of {videos} videos."]
    if clips:
        lines.append(
            "Masks: " + ", ".join(f"{count} {source}" for source, count in sorted(facts["masks"].items())) + "."
        )
    if facts["missing"]:
        lines.append(f"{facts['missing']} videos are not prepared yet: run prepare again, or wait for who does.")
    if refused:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(facts["refused"].items()))
        lines += [f"Refused: {refused} ({kinds})."]
        lines += _cut(
            [f"  {r['name']}: {r.get('refused') or r.get('error')}" for r in facts["results"] if "kind" in r], shown
        )
    remarks = [f"  {r['name']}: {note}" for r in facts["results"] for note in r.get("notes", ())]
    if remarks:
        lines += [f"Remarks: {len(remarks)}.", *_cut(remarks, shown)]
    return "\n".join(lines) + "\n"


def _cut(lines, shown):
    if shown is None or len(lines) <= shown:
        return lines
    return [*lines[:shown], f"  and {len(lines) - shown} more in report.txt"]
