"""Scores, thresholds and masks: exact, streamed, packed."""
