"""Exports tickets to formats that other tools read."""
