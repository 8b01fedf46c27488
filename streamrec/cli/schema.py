"""`streamrec schema`: the schema of events."""

from __future__ import annotations

from streamrec.cli.application import app


@app.command(epilog="Example: streamrec schema > event.schema.json")
def schema() -> None:
    """Print the JSON Schema of an event, generated from the type that decodes it."""
    from streamrec.cli.commands import schema as command

    command.run()
