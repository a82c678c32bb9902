"""The released weight files from the command line: `python -m consisid_core.weights --help`. No ComfyUI import."""
