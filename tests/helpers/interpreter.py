"""Fresh interpreters, for what is imported and when."""

import json
import os
import subprocess
import sys
from pathlib import Path

from helpers import ROOT

_PROGRAM = f"""
import os, sys, time, asyncio, importlib.util, json, logging, traceback
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
sys.path.insert(0, {os.environ["COMFYUI_PATH"]!r})
from comfy.cli_args import args
args.cpu = True
import nodes, comfy_api.latest, latent_preview, node_helpers

def load_pack():
    spec = importlib.util.spec_from_file_location(
        "custom_nodes_consisid", {str(ROOT / "__init__.py")!r}, submodule_search_locations=[{str(ROOT)!r}])
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    async def nodes():
        return await (await module.comfy_entrypoint()).get_node_list()
    return {{node.define_schema().node_id: node for node in asyncio.run(nodes())}}

def run(code, *files):
    for descriptor, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    try:
        exec(code, globals())
        return 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()

for line in sys.stdin:
    if not (child := os.fork()):
        os._exit(run(*json.loads(line)))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)
"""


class Interpreter:
    """A process that has imported ComfyUI, which takes longest; each program runs in a fork of it."""

    def __init__(self, folder: Path):
        self.files = [str(folder / name) for name in ("output", "errors")]

    def __enter__(self):
        command = [sys.executable, "-c", _PROGRAM]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_):
        self.process.communicate()  # It ends with its input.

    def run(self, code):
        """Run code in an interpreter with ComfyUI imported and `load_pack` defined; returns its output."""
        print(json.dumps([code, *self.files]), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        output, errors = (Path(file).read_text(encoding="utf-8") for file in self.files)
        assert answer == "0\n", errors
        return output
