"""A fresh interpreter, for what is imported and when."""

import os
import subprocess
import sys

from helpers import ROOT


def run_python(code, **environment):
    """Run code in a fresh interpreter with ComfyUI imported and `load_pack` defined; returns its output."""
    prelude = f"""
import sys, time, asyncio, importlib.util, logging
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
"""
    result = subprocess.run(
        [sys.executable, "-c", prelude + code], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
