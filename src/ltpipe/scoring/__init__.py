"""Criteria that need more than a weight's own value: each is computed once, and written as a score file."""
