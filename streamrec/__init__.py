"""streamrec: a recommender that learns from every event, on Kafka.

Importing the package loads the vocabulary alone: neither torch nor Kafka, Redis or river.
"""

from streamrec.errors import StreamrecError
from streamrec.events import Event, EventType, Item, Outcome, Slate, SlateItem

__version__ = "0.1.0"

__all__ = ["Event", "EventType", "Item", "Outcome", "Slate", "SlateItem", "StreamrecError", "__version__"]
