"""Tables 1-4 of the ConsisID paper (arXiv 2411.17440), to stand beside own figures of the paper's protocol."""

from dataclasses import dataclass

COMMON_COLUMNS = ("FaceSim-Arc", "FaceSim-Cur", "CLIPScore", "FID")

WARNING = (
    "The tables were measured on different subsets of people, photos and prompts: the same model scores 0.58 in Table "
    "1, 0.73 in Tables 2 and 3 and between 0.33 and 0.52 in Table 4. Do not compare figures of one table with those of "
    "another, nor own figures with a table whose people and prompts were others. The FID is a squared distance of "
    "single pictures and was given for reference only."
)


@dataclass(frozen=True)
class PaperTable:
    """One table. Higher is better, but for FID and seconds."""

    id: str
    caption: str
    samples: str
    """What it was measured on, as far as the paper says (its appendix 3.5)."""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float, ...] | None], ...]
    """(what was measured, its figures by column; None where the paper gives none, because training was unstable)."""
    notes: str = ""


_WITHOUT_HIGH_FREQUENCIES = (0.66, 0.68, 34.48, 104.34)
_WITHOUT_LOW_FREQUENCIES = (0.05, 0.05, 34.86, 269.88)
_FULL = (0.73, 0.75, 36.77, 127.42)

PAPER_TABLES = (
    PaperTable(
        "Table 1",
        "Comparison with other systems",
        "30 people x 5 photos x 90 prompts, 13,500 videos; experiments that only the appendix reports: 30 x 1 x 45",
        COMMON_COLUMNS,
        (
            ("ID-Animator", (0.32, 0.33, 24.97, 117.46)),
            ("ConsisID", (0.58, 0.60, 27.93, 151.82)),
            ("Vidu 1.5 (appendix)", (0.36, 0.39, 32.87, 215.42)),
        ),
        "Vidu 1.5 was added in the appendix, on fewer videos.",
    ),
    PaperTable(
        "Table 2",
        "Ablation: extractors and training",
        "30 people x 2 photos x 90 prompts for the extractors, 30 x 1 x 45 for what the appendix does not name",
        COMMON_COLUMNS,
        (
            ("without global extractor (GFE)", _WITHOUT_LOW_FREQUENCIES),
            ("without local extractor (LFE)", _WITHOUT_HIGH_FREQUENCIES),
            ("without coarse-to-fine training (CFT)", (0.54, 0.58, 34.47, 144.62)),
            ("without dynamic mask loss (DML)", (0.62, 0.67, 34.23, 187.78)),
            ("without dynamic cross-face loss (DCL)", (0.65, 0.69, 32.21, 117.80)),
            ("full", _FULL),
        ),
    ),
    PaperTable(
        "Table 3",
        "Ablation: where the face is injected",
        "30 people x 2 photos x 90 prompts",
        COMMON_COLUMNS,
        (
            ("a: high frequencies only", _WITHOUT_LOW_FREQUENCIES),
            ("b: low frequencies only", _WITHOUT_HIGH_FREQUENCIES),
            ("c: both, high between attention and feed-forward", _FULL),
            ("d: as c, low without key points", (0.64, 0.68, 30.69, 177.65)),
            ("e: high at the output of a block", (0.62, 0.66, 33.61, 164.15)),
            ("f: high at the input of the attention block", None),
            ("g: high only, before attention", None),
        ),
        "Named as in the paper's Figure 10; its main text exchanges a and b.",
    ),
    PaperTable(
        "Table 4",
        "Number of sampling steps",
        "60 people x 1 prompt",
        (*COMMON_COLUMNS, "seconds (H100), at least"),
        (
            ("25 steps", (0.50, 0.53, 30.43, 184.44, 50)),
            ("50 steps", (0.52, 0.54, 33.08, 163.68, 100)),
            ("75 steps", (0.43, 0.52, 31.92, 200.86, 160)),
            ("100 steps", (0.46, 0.55, 32.25, 212.74, 220)),
            ("125 steps", (0.42, 0.51, 32.38, 185.85, 270)),
            ("150 steps", (0.34, 0.40, 32.41, 186.56, 330)),
            ("175 steps", (0.35, 0.42, 29.98, 186.99, 390)),
            ("200 steps", (0.33, 0.39, 31.18, 166.79, 440)),
        ),
    ),
)
