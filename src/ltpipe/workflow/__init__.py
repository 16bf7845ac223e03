"""The configuration, the grid it spans and the names of its artefacts."""
