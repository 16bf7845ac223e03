"""One criterion a file."""
