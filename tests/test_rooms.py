"""The house as it is built: imports go down only, ComfyUI stays in two rooms, and the tests mirror the tree."""

import ast
import graphlib

import pytest
from helpers import ROOT

# From the lowest to the highest. dev is imported by no other, so it stands above all of them.
ROOMS = (
    "errors", "types", "model", "checkpoint", "face", "evaluation", "weights", "people", "training", "batch", "comfyui",
    "nodes", "__init__", "dev",
)  # fmt: skip
COMFYUI = {
    "comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths", "latent_preview",
    "node_helpers", "server",
}  # fmt: skip
ROOMS_WITH_COMFYUI = {"comfyui", "nodes", "__init__"}


def module_name(file):
    """consisid_core.face.align; a package by the name of its folder."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


FILES = [ROOT / "__init__.py", *(file for name in ("consisid_core", "nodes") for file in (ROOT / name).rglob("*.py"))]
MODULES = {module_name(file): file for file in sorted(FILES)}
CORE_FILES = [file for file in sorted((ROOT / "consisid_core").rglob("*.py")) if file.name != "__init__.py"]


def room(module):
    parts = module.split(".")
    return parts[1] if parts[0] == "consisid_core" and len(parts) > 1 else parts[0]


def imports(module):
    """Full names of all that a module imports, wherever in the file: of the pack as in MODULES, or of others."""
    file = MODULES[module]
    package = list(file.parent.relative_to(ROOT).parts)
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) + 1 - node.level], *filter(None, [node.module])] if node.level else None
            base = ".".join(base) if node.level else node.module
            for alias in node.names:
                name = f"{base}.{alias.name}".lstrip(".")
                yield name if name in MODULES or not node.level else base


IMPORTS = {module: sorted(set(imports(module))) for module in MODULES}


def test_every_room_has_its_place():
    assert {room(module) for module in MODULES} - {"consisid_core"} <= set(ROOMS)


def test_imports_go_down():
    up = [
        f"{module} imports {imported}"
        for module, names in IMPORTS.items()
        for imported in names
        if imported in MODULES and ROOMS.index(room(imported)) > ROOMS.index(room(module))
    ]
    assert not up


def test_no_module_imports_itself_through_others():
    graph = {module: [name for name in names if name in MODULES] for module, names in IMPORTS.items()}
    graphlib.TopologicalSorter(graph).prepare()


def test_only_two_rooms_know_comfyui():
    knowing = {module for module, names in IMPORTS.items() if COMFYUI & {name.split(".")[0] for name in names}}
    assert {room(module) for module in knowing} <= ROOMS_WITH_COMFYUI, sorted(knowing)


@pytest.mark.parametrize("file", CORE_FILES, ids=lambda file: module_name(file).removeprefix("consisid_core."))
def test_every_module_has_its_tests(file):
    folder = ROOT / "tests" / file.parent.relative_to(ROOT / "consisid_core")
    assert (folder / f"test_{file.stem.strip('_')}.py").is_file()
