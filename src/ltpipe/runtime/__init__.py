"""What every stage stands on: errors, files, determinism, provenance, the command line."""
