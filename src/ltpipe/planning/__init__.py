"""Planning: what a study will need, from its configuration alone."""
