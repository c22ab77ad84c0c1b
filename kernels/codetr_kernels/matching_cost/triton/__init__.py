"""The Triton implementation of the matching cost. docs/kernels.md says how it works and why."""
