"""Descriptions of files and their content, for people and for programs."""
