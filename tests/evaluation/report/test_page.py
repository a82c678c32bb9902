"""The report's page."""

import json
import os
import re
import shutil
from urllib.parse import unquote

from consisid_pack.consisid_core.evaluation.report.paper_tables import WARNING
from helpers.evaluation import HOSTILE, PROMPT, Page, run


def test_page_needs_no_network_and_hides_no_markup(scored):
    page = Page(scored / "evaluation/report_strict.html")
    tags = [tag for tag, _ in page.elements]
    assert not {"script", "link", "iframe", "b", "object"} & set(tags)
    loaded = [value for _, at in page.elements for name, value in at.items() if name in ("src", "srcset")]
    assert len(loaded) == 4  # Two plots, light and dark.
    assert len(set(loaded)) == 4
    assert all(re.fullmatch(r"data:image/svg\+xml;base64,[A-Za-z0-9+/=]+", value) for value in loaded)
    links = [at["href"] for tag, at in page.elements if tag == "a"]
    assert links == ["../ours/a.mp4", "../ours/b.mp4", "../ours/corrupt.mp4", "../ours/a.mp4", *links[4:]]
    assert all((scored / "evaluation" / link).is_file() for link in links)
    assert "url(" not in (scored / "evaluation/report_strict.html").read_text(encoding="utf-8")
    assert HOSTILE in page.text
    assert PROMPT in page.text
    assert "The video ours/missing.mp4 does not exist." in page.text
    assert WARNING in page.text


def test_links_are_addresses(clips, comfyui, tmp_path):
    folder = tmp_path / "a run"
    name = "100% #1 é?.mp4" if os.name != "nt" else "100% #1 é.mp4"
    folder.mkdir()
    shutil.copy(clips / "ours/b.mp4", folder / name)
    elsewhere = str(shutil.copy(clips / "photo.png", tmp_path / "photo.png"))
    (folder / "manifest.json").write_text(json.dumps([{"video": name, "reference": elsewhere}]), encoding="utf-8")
    assert run(folder, comfyui) == 0
    (link,) = (at["href"] for tag, at in Page(folder / "evaluation/report_strict.html").elements if tag == "a")
    assert re.fullmatch(r"[\w./%-]+", link)
    assert unquote(link) == f"../{name}"


def test_own_figures_stand_beside_those_of_the_same_protocol_only(scored):
    for protocol, expected in (("strict", 0), ("paper", 1)):
        page = Page(scored / f"evaluation/report_{protocol}.html")
        sections = [at.get("class") for tag, at in page.elements if tag == "section"]
        assert sections.count("own") == expected
        assert len(sections) == expected + 4
        text = "".join(page.text)
        assert ("measured otherwise, by the strict protocol" in text) == (protocol == "strict")
        assert ("but by other nets" in text) == (protocol == "paper")
