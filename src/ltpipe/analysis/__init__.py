"""What masks and metrics say: overlap, convergence, soundness, confidence, curves."""
