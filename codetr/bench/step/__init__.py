"""One training step, part by part: with heads, without, and of a peer."""
