import os
import subprocess
import sys

from helpers import ROOT

PROGRAM = """
import importlib, importlib.util, sys
spec = importlib.util.spec_from_file_location({name!r}, {file!r}, submodule_search_locations=[{folder!r}])
sys.modules[{name!r}] = importlib.util.module_from_spec(spec)
surface = importlib.import_module({name!r} + ".people.surface")
surface.smooth_step(0.0, 1.0, 0.5)
print(sum(surface.smooth_step.stats.cache_hits.values()))
"""


def hits(name, folder):
    program = PROGRAM.format(name=name, file=str(folder / "__init__.py"), folder=str(folder))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_each_name_has_its_own_files(tmp_path):
    """What one name compiled neither breaks nor serves another; the same name finds it again."""
    folder = tmp_path / "core"
    (folder / "people").mkdir(parents=True)
    for name in ("__init__.py", "people/__init__.py", "people/compiled.py", "people/surface.py"):
        (folder / name).write_text((ROOT / "consisid_core" / name).read_text())
    assert [hits(name, folder) for name in ("first", "second", "first")] == [0, 0, 1]
    (folder / "people" / "another.py").write_text("# Something else.\n")  # One file changed, and all is compiled anew.
    assert hits("first", folder) == 0


def test_folder_that_cannot_be_written_is_no_reason_to_stop(monkeypatch):
    from consisid_pack.consisid_core.people import compiled

    monkeypatch.setattr(os, "access", lambda *given: False)

    def double(x):
        return 2 * x

    assert compiled.compiled(double)(21) == 42
