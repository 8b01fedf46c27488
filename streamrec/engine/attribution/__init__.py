"""What came of slates: which later events count for which shown item."""
