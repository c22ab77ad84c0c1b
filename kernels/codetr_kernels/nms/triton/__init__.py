"""Non-maximum suppression in Triton."""
