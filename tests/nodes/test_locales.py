"""The translations in locales/ are complete, fit today's schemas, and reach the frontend through ComfyUI's own reader.

The schemas are the English source. `locales_source.json` holds the English texts that the translations were made from.
After a text of a schema has changed: translate it in every language, then renew that file with
`CONSISID_UPDATE_LOCALES_SOURCE=1 python scripts/test.py tests/nodes/test_locales.py`.
"""

import json
import os
import re
import sys
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.signatures import sockets

LOCALES = ROOT / "locales"
SOURCE = Path(__file__).with_name("locales_source.json")
LANGUAGES = ["de", "es", "fr", "ja", "ko", "zh"]
# What all languages write as English does, and what one of them does besides.
SAME_EVERYWHERE = {"cfg", "clip", "inception", "vae"}
SAME_AS_ENGLISH = {
    "de": {"guidance", "latent", "name", "prompt", "sampler", "seed", "video"} | {f"video {n}" for n in range(1, 7)},
    "es": {"prompt"},
    "fr": {"image", "images", "latent", "prompt", "score"},
    "zh": {"latent"},
}
# The frontend translates these itself; a pack's translation would change them for every other pack.
CATEGORIES_OF_THE_FRONTEND = {"loaders", "sampling"}


@pytest.fixture(scope="module")
def schemas(node_classes):
    return {node_id: node.define_schema() for node_id, node in node_classes.items()}


@pytest.fixture(scope="module")
def english(schemas):
    """Every text to translate, by its key in nodeDefs.json as ComfyUI's frontend looks it up.

    Outputs without a name of their own show their type, which the frontend translates.
    """
    texts = {}
    for node_id, schema in schemas.items():
        texts[node_id, "display_name"] = schema.display_name
        texts[node_id, "description"] = schema.description
        named_outputs = [(str(n), output) for n, output in enumerate(schema.outputs) if output.display_name]
        named = [("inputs", i.id, i) for i in sockets(schema)] + [("outputs", n, o) for n, o in named_outputs]
        for kind, key, socket in named:
            texts[node_id, kind, key, "name"] = socket.display_name or socket.id
            if socket.tooltip:
                texts[node_id, kind, key, "tooltip"] = socket.tooltip
    return texts


def read(language, name):
    return json.loads((LOCALES / language / name).read_text(encoding="utf-8"))


def flat(tree, path=()):
    if isinstance(tree, str):
        return {path: tree}
    return {key: text for name, branch in tree.items() for key, text in flat(branch, (*path, name)).items()}


@pytest.fixture(params=LANGUAGES)
def language(request):
    return request.param


@pytest.fixture
def texts(language):
    return flat(read(language, "nodeDefs.json"))


def test_there_is_a_folder_for_every_language():
    assert sorted(folder.name for folder in LOCALES.iterdir()) == LANGUAGES


def test_no_key_is_missing_and_none_is_stale(texts, english):
    assert english.keys() - texts.keys() == set(), "not translated"
    assert texts.keys() - english.keys() == set(), "not in the schemas"


def test_the_english_texts_are_those_that_were_translated(english):
    current = {".".join(key): text for key, text in english.items()}
    if os.environ.get("CONSISID_UPDATE_LOCALES_SOURCE"):
        SOURCE.write_text(json.dumps(current, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    translated = json.loads(SOURCE.read_text(encoding="utf-8"))
    changed = sorted(key for key in current.keys() | translated.keys() if current.get(key) != translated.get(key))
    assert not changed, f"Translate again, then renew {SOURCE.name} (see the top of this file): {', '.join(changed)}"


def test_nothing_was_left_in_english(language, texts, english):
    left = {key: text for key, text in texts.items() if text.lower() == english[key].replace("_", " ").lower()}
    assert {text.lower() for text in left.values()} == SAME_EVERYWHERE | SAME_AS_ENGLISH.get(language, set()), left


def literals(text):
    """What a translation must hold as the English text does: numbers, paths, file and product names, abbreviations."""
    words = re.findall(r"\.?[A-Za-z0-9_](?:[\w./]*[A-Za-z0-9_])?", text)
    machine_words = [word for word in words if re.search(r"[\d_/.]|\w[A-Z]", word)]
    return [re.sub(r"(?<=[A-Z])s$", "", word) for word in machine_words]


def holds(text, literal):
    if literal.replace(".", "").isdigit():
        return re.search(rf"(?<![\d.]){re.escape(literal)}(?!\d)", text) is not None
    return literal in text


def test_numbers_paths_and_product_names_are_kept(language, texts, english, schemas):
    for key, text in english.items():
        if key[-1] == "name":
            continue
        translation = texts[key]
        if language in ("de", "es", "fr"):  # These write 12,4 GB; French writes Go.
            translation = re.sub(r"(?<=\d),(?=\d)", ".", translation).replace(" Go)", " GB)")
        inputs = {i.id for i in schemas[key[0]].inputs}  # Translated; see below.
        lost = [word for word in literals(text) if word not in inputs and not holds(translation, word)]
        assert not lost, (key, lost)


def test_options_are_kept(texts, schemas):
    """The frontend shows the values of a combo untranslated, so a tooltip calls them by these names."""
    seen = 0
    for node_id, schema in schemas.items():
        for socket in schema.inputs:
            if getattr(socket, "default", None) is None:
                continue
            for option in getattr(socket, "options", None) or []:
                if re.search(rf"(?<![\w'])({re.escape(option)})(?![\w'])", socket.tooltip):
                    assert option in texts[node_id, "inputs", socket.id, "tooltip"], (node_id, socket.id, option)
                    seen += 1
    assert seen > 10


def test_other_inputs_and_nodes_are_called_by_their_translated_names(texts, english):
    titles = {english[key]: texts[key] for key in english if key[-1] == "display_name"}
    seen = 0
    for key, text in english.items():
        if key[-1] not in ("tooltip", "description"):
            continue
        names = {k[2]: texts[k] for k in english if k[:2] == (key[0], "inputs") and k[-1] == "name" and "_" in k[2]}
        for name, translated in {**names, **titles}.items():
            if re.search(rf"\b{name}\b", text):
                assert translated in texts[key], (key, name, translated)
                seen += 1
    assert seen > 5


def test_one_term_has_one_translation(texts, english):
    translations = {}
    for key, text in english.items():
        translations.setdefault(text, set()).add(texts[key])
    assert {text: found for text, found in translations.items() if len(found) > 1} == {}


def test_the_names_of_a_node_are_distinct(texts, schemas):
    for node_id in schemas:
        for kind in ("inputs", "outputs"):
            names = [text for key, text in texts.items() if key[:2] == (node_id, kind) and key[-1] == "name"]
            assert len(set(names)) == len(names), (node_id, names)


def test_the_frontend_can_read_every_text(language, texts):
    """vue-i18n takes braces, @ and | for syntax of its own."""
    for key, text in {**texts, **flat(read(language, "main.json"))}.items():
        assert text == text.strip() != "" and not re.search(r"[{}@|]", text), (key, text)


def test_categories_are_translated(language, schemas):
    words = {word for schema in schemas.values() for word in schema.category.split("/")} - {"ConsisID"}
    main = read(language, "main.json")
    assert main.keys() == {"nodeCategories"}
    assert main["nodeCategories"].keys() == words - CATEGORIES_OF_THE_FRONTEND
    assert not main["nodeCategories"].items() & {word: word for word in words}.items()


def test_comfyui_serves_them(tmp_path, monkeypatch):
    """What /i18n answers, from a custom_nodes folder that holds the pack."""
    import folder_paths

    # Another library's module of that name would stand in the way of ComfyUI's package.
    monkeypatch.delitem(sys.modules, "utils", raising=False)
    monkeypatch.syspath_prepend(os.environ["COMFYUI_PATH"])
    from app.custom_node_manager import CustomNodeManager

    (tmp_path / "consisid").symlink_to(ROOT)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "custom_nodes", ([str(tmp_path)], set()))
    files = {name: {**read(name, "main.json"), "nodeDefs": read(name, "nodeDefs.json")} for name in LANGUAGES}
    assert CustomNodeManager().build_translations() == files
