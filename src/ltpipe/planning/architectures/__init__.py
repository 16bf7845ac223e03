"""Shapes of models on the Hub, as their configurations give them: one JSON file a repository."""
