"""Text sources and fixed token sequences."""
