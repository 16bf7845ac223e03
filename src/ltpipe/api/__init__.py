"""Tickets of a model that is already in memory: mask it, measure it, prune it iteratively."""
