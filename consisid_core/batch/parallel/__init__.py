"""One video on several GPUs: `torchrun --nproc-per-node N -m consisid_core.batch.parallel ...`."""
