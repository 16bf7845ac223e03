"""The base of every stage: errors, files, determinism, provenance, the command line."""
