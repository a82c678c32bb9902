"""Runs the tests: `python scripts/test.py [pytest arguments]`. Paths are relative to the repository's folder.

The first run makes an environment and finds or gets ComfyUI (see environment.py). Then some workers, at most four, take
a file at a time; `-n 0` runs all in one process, for a debugger.
"""

import os
import sys

import environment

# One more than cores, because tests wait for pages, packages and clocks too. Each takes 1.5 GB of memory, a ComfyUI
# that it starts as much, and the browser 1 GB.
WORKERS = min((os.cpu_count() or 1) + 1, 4)


def main() -> None:
    environment.end_in_order_when_terminated()
    try:
        python, comfyui = environment.prepare("test")
    except environment.UserError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("Stopped.")
    os.chdir(environment.ROOT)
    # The nets are tiny: more threads would wait for each other longer than they compute.
    variables = {"COMFYUI_PATH": str(comfyui), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    variables["OPENCV_FOR_THREADS_NUM"] = variables["OMP_NUM_THREADS"]
    # Handing each tensor's memory back to Linux and fetching it anew takes up to a third of a tiny net's time.
    variables |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**29)}
    variables["PYTHONDONTWRITEBYTECODE"] = ""  # The packages are compiled when they are first imported.
    workers = ["-n", WORKERS, "--dist", "loadfile", "--no-loadscope-reorder"]
    environment.replace_process([python, "-m", "pytest", *workers, *sys.argv[1:]], variables)


if __name__ == "__main__":
    main()
