"""What is wanted more than before: counts in windows, kept here or read from a topic."""
