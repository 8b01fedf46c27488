"""What is remembered of users and items, one file per family of features."""
