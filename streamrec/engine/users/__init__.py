"""What a partition remembers of its users: the table, and one file per user feature."""
