"""The solver for more queries than registers hold."""
