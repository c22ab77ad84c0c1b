"""What collaborative training does, to be seen: what each head calls positive, and what a training step costs."""
