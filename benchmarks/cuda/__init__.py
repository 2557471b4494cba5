"""Everything that is checked and measured on a CUDA device, in one command: ``python -m benchmarks.cuda``."""
