"""Detection end to end, from files to boxes, and the scoring of what is detected."""
