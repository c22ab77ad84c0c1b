"""codetr: end-to-end object detectors under collaborative hybrid assignments training."""
