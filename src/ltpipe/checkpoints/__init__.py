"""Model sources, the canonical checkpoint folder and the tensor file format."""
