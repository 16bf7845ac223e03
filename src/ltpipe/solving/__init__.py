"""Solvers: masks, and new values of the kept weights, found block by block in the pruned model."""
