"""What several commands are made of: parts of a log or of a topic, and how what was found is put in words."""
