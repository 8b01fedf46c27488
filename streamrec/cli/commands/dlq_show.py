"""Shows one dead letter whole, and whether its message would be accepted now.

Whatever a message holds, nothing of it reaches the terminal that could command it.
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

from streamrec.cli.shared.dead_letters import (
    DETAIL_CHARS,
    NAME_CHARS,
    as_json_text,
    at,
    refused_now,
    summary,
    time_text,
)
from streamrec.codec import brief
from streamrec.config.settings import Settings
from streamrec.transport.positions import TopicReader
from streamrec.worker.dead_letter_text import excerpt
from streamrec.worker.dead_letters import DeadLetter


def run(settings: Settings, address: str, *, as_json: bool) -> None:
    """Print one letter.

    Raises:
        ConfigError: the address is none.
        StateError: there is no such letter.
        TransportError: no broker answers, or there is no such topic.
    """
    with closing(TopicReader(settings.topics.dead_letters, settings.kafka)) as topic:
        dead_letter = at(topic, address)
    plain = _plain_letter(dead_letter, settings)
    if as_json:
        print(as_json_text(plain))
        return
    for name, said in plain.items():
        if name not in ("value", "headers"):
            print(f"{name}: {'-' if said in (None, '') else said}")
    for name, content in dead_letter.headers:
        print(f"header {brief(name, NAME_CHARS)}: {brief(content.decode('utf-8', 'replace'), DETAIL_CHARS)}")
    print(f"value:\n{plain['value']}")


def _plain_letter(dead_letter: DeadLetter, settings: Settings) -> dict[str, Any]:
    refusal = refused_now(dead_letter, settings, int(time.time() * 1000))
    texts = {name: brief(said, 500) if isinstance(said, str) else said for name, said in summary(dead_letter).items()}
    return {
        **texts,
        "when": time_text(dead_letter.sent_ms),
        "bytes": dead_letter.cut_bytes or len(dead_letter.value or b""),
        "kept_bytes": len(dead_letter.value or b""),
        "now": "accepted" if refusal is None else f"refused: {refusal.reason}: {refusal.detail}",
        "key": None if dead_letter.key is None else brief(dead_letter.key.decode("utf-8", "backslashreplace"), 500),
        "headers": [[name, content.decode("utf-8", "backslashreplace")] for name, content in dead_letter.headers],
        "value": excerpt(dead_letter.value, dead_letter.headers),
    }
