"""What a file is and what it holds, for people and for machines."""
