"""A ticket in formats that other tools read."""
