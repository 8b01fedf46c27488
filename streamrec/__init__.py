"""streamrec: a recommender that learns from every event, on Kafka.

    from streamrec import Recommender

Importing the package loads the vocabulary alone: neither torch nor Kafka, Redis or river. `Recommender`, the engine to
use in a program or a notebook, is loaded when it is first asked for.
"""

from typing import TYPE_CHECKING

from streamrec.errors import StreamrecError
from streamrec.events import Event, EventType, Item, Outcome, Slate, SlateItem

if TYPE_CHECKING:
    from streamrec.wiring.recommender import Recommender

__version__ = "0.1.0"

__all__ = [
    "Recommender",
    "Event",
    "EventType",
    "Item",
    "Outcome",
    "Slate",
    "SlateItem",
    "StreamrecError",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name == "Recommender":
        from streamrec.wiring.recommender import Recommender

        return Recommender
    raise AttributeError(f"module 'streamrec' has no attribute {name!r}")
