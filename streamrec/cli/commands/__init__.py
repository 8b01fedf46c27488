"""What each command does, a file for each; loaded only when the command runs, so that `--help` stays quick."""
