"""`codetr doctor`: what this machine and installation are fit for. A module a theme; no check raises, each reports."""
