"""Speed and memory against peers and limits that are measured in the same run."""
