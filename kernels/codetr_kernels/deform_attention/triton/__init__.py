"""The Triton implementation of multi-scale deformable attention. docs/kernels.md says how it works and why."""
