"""Settings: small groups with defaults, and how they are read from files, the environment and options."""
