"""What keeps learning honest and safe: prequential tests, rate limits, quarantine, rollback."""
