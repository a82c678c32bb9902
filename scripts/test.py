"""Runs the tests: `python scripts/test.py [pytest arguments]`. Paths are relative to the repository's folder.

The first run makes an environment and finds or gets ComfyUI (see environment.py).
"""

import os
import sys

import environment


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
    environment.replace_process([python, "-m", "pytest", *sys.argv[1:]], variables)


if __name__ == "__main__":
    main()
