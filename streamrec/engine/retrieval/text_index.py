"""What people search for, in words: an index of the catalogue's titles, texts, categories and tags, ranked by BM25.

    score(item) = sum over the words w asked for of idf(w) tf (k1 + 1) / (tf + k1 (1 - b + b length / average length))

with k1 = 1.2 and b = 0.75 (Robertson and Zaragoza: The probabilistic relevance framework, 2009), where tf counts a word
in the title TITLE times, in a category or tag LABEL times. It is SQLite's FTS5 in memory: what is added counts at the
next search, and what is withdrawn leaves the statistics too, so that a score depends on the catalogue as it is and not
on how it came to be that way.

A query is text, never syntax. Knows nothing of users, item indices or what may be shown.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from streamrec.engine.arrays.batch import Float32
from streamrec.engine.items.tokens import words
from streamrec.errors import ConfigError
from streamrec.events import Item

TITLE, TEXT, LABEL = 3.0, 1.0, 2.0
"""What a word counts, by where it stands."""
MOST_WORDS = 400
"""Of an item's text."""
MOST_CHARS = 1_024
MOST_ASKED = 12
"""Different words of a query, the first ones."""
MOST_MATCHES = 8_192
"""Items scored for a query. Where more match, the latest added: a query that fits everything says little."""
REMEMBERED = 256
"""Queries whose answers are kept until the catalogue changes: people search for the same things."""
SHORTEST_STEM, MOST_STEMS, MOST_ENDINGS = 2, 64, 8
"""A word that is still being typed: letters, words looked at in their order, and words it may become."""
_BEYOND = "\U0010ffff"


class TextIndex:
    """The items that were added and have words, as many as there are.

    Raises:
        ConfigError: SQLite was built without FTS5.
    """

    def __init__(self) -> None:
        # Used by one thread at a time, not always by the one that made it.
        self._tables = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        try:
            # Words come folded and apart; `ascii` splits at spaces and takes whatever is not ASCII for letters.
            self._tables.execute(
                "CREATE VIRTUAL TABLE items USING fts5(title, text, labels, tokenize = \"ascii tokenchars '_'\")"
            )
            self._tables.execute("CREATE VIRTUAL TABLE vocabulary USING fts5vocab(items, row)")
        except sqlite3.OperationalError as error:
            raise ConfigError(
                f"the search index needs SQLite with FTS5; this Python has SQLite {sqlite3.sqlite_version}: {error}. "
                "Use another build of Python, or set serving.search = false"
            ) from None
        self._tables.execute("PRAGMA journal_mode = OFF")
        self._tables.execute("BEGIN")  # for good: a commit for each item would cost three times as much
        self._places: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._next = 0
        self._remembered = lru_cache(REMEMBERED)(self._search)

    def __len__(self) -> int:
        return len(self._places)

    def take(self, item: Item) -> None:
        """This is said of the item now."""
        self.withdraw(item.item_id)
        fields = (
            " ".join(words(item.title or "")),
            " ".join(words(item.text or "", MOST_WORDS)),
            " ".join(words(" ".join([*item.categories, *item.tags]))),
        )
        if not any(fields):
            return
        self._remembered.cache_clear()
        place = self._next
        self._next += 1
        self._places[item.item_id], self._names[place] = place, item.item_id
        self._tables.execute("INSERT INTO items(rowid, title, text, labels) VALUES (?, ?, ?, ?)", (place, *fields))

    def withdraw(self, item_id: str) -> None:
        """Nothing is said of the item any more."""
        place = self._places.pop(item_id, None)
        if place is not None:
            self._remembered.cache_clear()
            del self._names[place]
            self._tables.execute("DELETE FROM items WHERE rowid = ?", (place,))

    def search(self, text: str, k: int) -> tuple[list[str], Float32]:
        """At most `k` items, best first, and their scores, above zero.

        Those with every word of the query come first, as far as the catalogue knows the words; then, if there is room,
        those with some, so scores may rise once. Of equals the lower id is first.
        """
        asked = tuple(dict.fromkeys(words(text[:MOST_CHARS])))[:MOST_ASKED]
        names, scores = self._remembered(asked, k)
        return list(names), scores.copy()

    def _search(self, words_asked: tuple[str, ...], k: int) -> tuple[list[str], Float32]:
        asked = self._known(words_asked)
        if not asked or k < 1:
            return [], np.zeros(0, np.float32)
        names, scores = self._ranked(" AND ".join(word for word, _ in asked), k)
        if len(names) < k and len(asked) > 1:
            found = set(names)
            more = self._ranked(" OR ".join(_rarest(asked)), k)
            there = [at for at, name in enumerate(more[0]) if name not in found][: k - len(names)]
            names = names + [more[0][at] for at in there]
            scores = np.concatenate([scores, more[1][there]])
        return names, scores

    def _known(self, asked: Sequence[str]) -> list[tuple[str, int]]:
        """What to look for, as FTS5 puts it, and how many items have it; words that none has are left out.

        The last word may be the beginning of one.
        """
        known = [(f'"{word}"', count) for word in asked if (count := self._count(word))]
        if asked and len(known) < len(asked) and len(asked[-1]) >= SHORTEST_STEM and not self._count(asked[-1]):
            stems = self._tables.execute(
                "SELECT term, doc FROM vocabulary WHERE term >= ? AND term < ? LIMIT ?",
                (asked[-1], asked[-1] + _BEYOND, MOST_STEMS),
            ).fetchall()
            stems = sorted(stems, key=lambda stem: (-stem[1], stem[0]))[:MOST_ENDINGS]
            if stems:
                either = " OR ".join(f'"{word}"' for word, _ in stems)
                known.append((f"({either})", sum(count for _, count in stems)))
        return known

    def _count(self, word: str) -> int:
        found = self._tables.execute("SELECT doc FROM vocabulary WHERE term = ?", (word,)).fetchone()
        return int(found[0]) if found else 0

    def _ranked(self, match: str, k: int) -> tuple[list[str], Float32]:
        rows = self._tables.execute(
            "SELECT rowid, bm25(items, ?, ?, ?) FROM items WHERE items MATCH ? ORDER BY rowid DESC LIMIT ?",
            (TITLE, TEXT, LABEL, match, MOST_MATCHES),
        ).fetchall()
        scores = -np.array([score for _, score in rows], np.float32)  # SQLite's are below zero: the best first
        least = np.partition(scores, -k)[-k] if len(scores) > k else 0.0
        best = sorted((-scores[at], self._names[rows[at][0]]) for at in np.flatnonzero(scores >= least).tolist())[:k]
        return [name for _, name in best], np.array([-score for score, _ in best], np.float32)


def _rarest(asked: Sequence[tuple[str, int]]) -> list[str]:
    """The words that fewest items have, as many as are scored in one go: the others say next to nothing."""
    chosen: list[str] = []
    matches = 0
    for word, count in sorted(asked, key=lambda one: one[1]):
        matches += count
        if chosen and matches > MOST_MATCHES:
            break
        chosen.append(word)
    return chosen
