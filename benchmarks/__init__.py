"""Speed and memory compared with peers and limits measured in the same run."""
