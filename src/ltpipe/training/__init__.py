"""Training: tasks, models, levels of pruning, controls, and a loop that can be killed at any step."""
