"""What is said where nothing is stored of a user or an item that was asked for."""

from __future__ import annotations

from streamrec.config.settings import Settings


def not_stored(kind: str, name: str, settings: Settings) -> str:
    """Why that may be. `kind` is user or item, `name` its id."""
    return (
        f"{kind} {name!r} is unknown under prefix {settings.redis.prefix!r}; a worker must have handled an event of it "
        f"and saved a checkpoint since (about {settings.checkpoints.interval_s:g} s)"
    )
