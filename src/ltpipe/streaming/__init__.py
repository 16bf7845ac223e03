"""The walk: a model, block by block, over a memory-mapped checkpoint."""
