"""What each command does, one file per family; loaded only when the command runs, so that `--help` stays quick."""
