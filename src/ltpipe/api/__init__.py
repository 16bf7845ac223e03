"""Tickets of a model already in memory: mask it, measure it, prune it iteratively."""
