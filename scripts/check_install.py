"""Installs the last commit as a user would, with the real programs: `python scripts/check_install.py`.

ComfyUI-Manager clones the repository into a copy of ComfyUI and installs its requirements into an environment that
holds ComfyUI's packages alone; comfy-cli validates and packs it. Then: no package may have been replaced, and ComfyUI
must start with the pack. Everything is kept in `.cache/install-check`. Takes some minutes and 6 GB unless `--python`
names an environment to install into.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import venv
from pathlib import Path

from environment import CONSTRAINTS, ROOT, UserError, say

FOLDER = ROOT / ".cache" / "install-check"
PACK = "comfyui-consisid"
MANAGER = "comfyui-manager==4.2.2"  # As ComfyUI 0.33 asks for it.
CLI = "comfy-cli==1.23.0"
START_SECONDS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--comfyui", type=Path, metavar="DIR", default=os.environ.get("COMFYUI_PATH"))
    parser.add_argument("--python", type=Path, help="Python of an environment with ComfyUI's packages; it is changed")
    options = parser.parse_args()
    try:
        if options.comfyui is None:
            raise UserError("Name a ComfyUI with --comfyui or COMFYUI_PATH; it is copied, not changed.")
        check(options.comfyui, options.python and options.python.absolute())
    except UserError as error:
        sys.exit(f"Error: {error}")


def check(source: Path, python: Path | None) -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    comfyui = FOLDER / "ComfyUI"
    own = {".git", "custom_nodes", "input", "models", "output", "temp", "user"}  # The user's, at the top alone.
    shutil.copytree(source, comfyui, ignore=lambda folder, names: own & {*names} if Path(folder) == source else [])
    (comfyui / "custom_nodes").mkdir()
    if python is None:
        python = make_environment("venv", "-r", comfyui / "requirements.txt", "-c", CONSTRAINTS)
    run([python, "-m", "pip", "install", "--quiet", MANAGER, "chardet"])

    before = versions(python)
    install_with_manager(python, comfyui)
    after = versions(python)
    new = {name: version for name, version in after.items() if name not in before}
    say(
        f"{len(before)} packages before. New: {', '.join(f'{name} {version}' for name, version in sorted(new.items()))}"
    )
    if moved := [f"{name} {old} -> {after.get(name)}" for name, old in before.items() if after.get(name) != old]:
        raise UserError(f"The installation replaced packages: {', '.join(moved)}")
    run([python, "-m", "pip", "check"])

    log = run(
        [python, "main.py", "--cpu", "--quick-test-for-ci", "--listen", "127.0.0.1", "--disable-auto-launch"],
        cwd=comfyui,
        timeout=START_SECONDS,
    )
    if "IMPORT FAILED" in log or PACK not in log:
        raise UserError(f"ComfyUI did not load the pack:\n{log}")
    say("ComfyUI starts with the pack")
    pack_with_cli()
    say("No package was replaced; the pack installs, loads, validates and packs")


def make_environment(name: str, *packages) -> Path:
    say(f"Making an environment in {FOLDER / name}")
    venv.create(FOLDER / name, with_pip=True)
    python = FOLDER / name / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run([python, "-m", "pip", "install", "--quiet", *packages])
    return python


def install_with_manager(python: Path, comfyui: Path) -> None:
    """`cm-cli install URL` of a clone that this program serves: Manager takes web addresses alone."""
    served = FOLDER / "served"
    run(["git", "clone", "--quiet", "--bare", ROOT, served / f"{PACK}.git"])
    run(["git", "-C", served / f"{PACK}.git", "update-server-info"])
    handler = functools.partial(QuietHandler, directory=served)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{PACK}.git"
        log = run([python, "-m", "cm_cli", "install", url], cwd=comfyui, COMFYUI_PATH=str(comfyui))
        server.shutdown()
    if "[INSTALLED]" not in log or not (comfyui / "custom_nodes" / PACK / "__init__.py").is_file():
        raise UserError(f"ComfyUI-Manager did not install the pack:\n{log}")
    say("ComfyUI-Manager installed the pack and its requirements, line by line")


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass


def pack_with_cli() -> None:
    """`comfy node validate` and `comfy node pack` in a fresh clone."""
    python = make_environment("cli", CLI)
    clone = FOLDER / "clone"
    run(["git", "clone", "--quiet", ROOT, clone])
    for command in ("validate", "pack"):
        command = [python, "-m", "comfy_cli", "--skip-prompt", "--no-enable-telemetry", "node", command]
        log = run(command, cwd=clone, DO_NOT_TRACK="1")
        if "Warning" in log or "warnings found" in log:
            raise UserError(f"comfy-cli is not content:\n{log}")
    say(f"comfy-cli validated the pack and wrote {clone / 'node.zip'}")


def versions(python: Path) -> dict[str, str]:
    lines = run([python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]).splitlines()
    return {item["name"]: item["version"] for item in json.loads(lines[-1])}


def run(command: list, cwd: Path = FOLDER, timeout: float | None = None, **variables: str) -> str:
    """Runs a command to its end and returns stderr and stdout, in this order; UserError when it fails."""
    command = [str(part) for part in command]
    result = subprocess.run(
        command,
        cwd=cwd,
        timeout=timeout,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    log = result.stderr + result.stdout
    if result.returncode:
        raise UserError(f"`{' '.join(command)}` failed:\n{log}")
    return log


if __name__ == "__main__":
    main()
