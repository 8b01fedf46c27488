"""What is known of items: the table, the catalogue, vectors and words of their texts, exact counts."""
