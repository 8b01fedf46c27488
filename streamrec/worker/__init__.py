"""The loop around users: records in, slates and outcomes out, checkpoints in between."""
