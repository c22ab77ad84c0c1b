"""The Triton implementation of overlaps and box losses. docs/kernels.md says how it works and why."""
