"""The Triton implementation of the assigners. docs/kernels.md says how it works and why."""
