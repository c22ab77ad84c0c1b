"""The Triton implementation of the class losses. docs/kernels.md says how it works and why."""
