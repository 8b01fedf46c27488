"""What people search for, in words: an index of the catalogue's titles, texts, categories and tags, ranked by BM25.

    score(item) = sum over the words w asked for of idf(w) tf (k1 + 1) / (tf + k1 (1 - b + b length / average length))

with k1 = 1.2, b = 0.75 and idf(w) = log((items - with w + 1/2) / (with w + 1/2)), where that is above LEAST_IDF
(Robertson and Zaragoza: The probabilistic relevance framework, 2009), where tf counts a word in the title TITLE times,
in a category or tag LABEL times. What is added counts at the next search, and what is withdrawn leaves the statistics
too, so that a score depends on the catalogue as it is and not on how it came to be that way.

Postings are arrays, so that a query is scored as many items at a time as have its words, and however long it is, it
costs at most MOST_ASKED words and MOST_POSTINGS of them, or the rarest word alone where more items have even that.

A query is text, never syntax. Knows nothing of users, item indices or what may be shown.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from heapq import nsmallest
from itertools import islice, takewhile
from typing import NamedTuple

import numpy as np

from streamrec.engine.arrays.batch import Float32, Float64, Int32, Int64
from streamrec.engine.items.tokens import words
from streamrec.events import Item

TITLE, TEXT, LABEL = 3.0, 1.0, 2.0
"""What a word counts, by where it stands."""
K1, B, LEAST_IDF = 1.2, 0.75, 1e-6
MOST_WORDS = 400
"""Of an item's text."""
MOST_CHARS = 1_024
MOST_ASKED = 12
"""Different words of a query, the first ones."""
MOST_POSTINGS = 65_536
"""Looked at for a query: of words that more items have, the rarest; the others say next to nothing."""
MOST_MATCHES = 4_096
"""Items kept of those with every word, and of those with some: the best."""
REMEMBERED = 256
"""Queries whose answers are kept until the catalogue changes: people search for the same things."""
SHORTEST_STEM, MOST_STEMS, MOST_ENDINGS = 2, 64, 8
"""A word that is still being typed: letters, words looked at in their order, and words it may become."""
MANY_NEW = 1_024
"""New words from which on it is quicker to sort all than to put each in its place."""


class _Postings(NamedTuple):
    """The items that have a word."""

    places: array[int]  # ascending
    counts: array[float]  # tf


class _Matches(NamedTuple):
    """Items by place, in no order, and their scores."""

    places: Int32
    scores: Float32


class TextIndex:
    """The items that were added and have words, as many as there are."""

    def __init__(self) -> None:
        self.postings_read = 0  # so far: what searches have cost
        self._postings: dict[str, _Postings] = {}
        self._places: dict[str, int] = {}
        self._names: list[str] = []  # by place
        self._words: list[tuple[str, ...]] = []  # of the item in each place
        self._lengths = array("i")  # in words, by place
        self._free: list[int] = []
        self._total = 0  # of the lengths
        self._sorted: list[str] = []  # words, some of which no item has any more
        self._unsorted: list[str] = []  # words that came since it was sorted
        self._remembered = lru_cache(REMEMBERED)(self._matching)

    def __len__(self) -> int:
        return len(self._places)

    def take(self, item: Item) -> None:
        """This is said of the item now."""
        self.withdraw(item.item_id)
        counts: dict[str, float] = {}
        length = 0
        fields = (
            (TITLE, words(item.title or "")),
            (TEXT, words(item.text or "", MOST_WORDS)),
            (LABEL, words(" ".join([*item.categories, *item.tags]))),
        )
        for weight, said in fields:
            length += len(said)
            for word in map(sys.intern, said):  # one text in memory, whoever has the word
                counts[word] = counts.get(word, 0.0) + weight
        if not counts:
            return
        self._remembered.cache_clear()
        place = self._place(item.item_id, tuple(counts), length)
        for word, count in counts.items():
            postings = self._postings.get(word)
            if postings is None:
                postings = self._postings[word] = _Postings(array("i"), array("f"))
                self._unsorted.append(word)
            at = bisect_left(postings.places, place)
            postings.places.insert(at, place)
            postings.counts.insert(at, count)

    def _place(self, name: str, its_words: tuple[str, ...], length: int) -> int:
        if not self._free:
            self._free.append(len(self._names))
            self._names.append("")
            self._words.append(())
            self._lengths.append(0)
        place = self._free.pop()
        self._places[name] = place
        self._names[place], self._words[place], self._lengths[place] = name, its_words, length
        self._total += length
        return place

    def withdraw(self, item_id: str) -> None:
        """Nothing is said of the item any more."""
        place = self._places.pop(item_id, None)
        if place is None:
            return
        self._remembered.cache_clear()
        for word in self._words[place]:
            postings = self._postings[word]
            at = bisect_left(postings.places, place)
            del postings.places[at], postings.counts[at]
            if not postings.places:
                del self._postings[word]
        self._total -= self._lengths[place]
        self._names[place], self._words[place], self._lengths[place] = "", (), 0
        self._free.append(place)

    def search(self, text: str, k: int) -> tuple[list[str], Float32]:
        """At most `k` items, best first, and their scores, above zero.

        Those with every word of the query come first, as far as the catalogue knows the words; then, if there is room,
        those with some, so scores may rise once. Of equals the lower id is first.
        """
        asked = tuple(dict.fromkeys(words(text[:MOST_CHARS])))[:MOST_ASKED]
        best: list[tuple[float, str]] = []
        for matches in self._remembered(asked):
            best += self._best(matches, k - len(best))
        return [name for _, name in best], np.array([-loss for loss, _ in best], np.float32)

    def _best(self, matches: _Matches, k: int) -> list[tuple[float, str]]:
        """Losses, which are scores below zero, and names; the best `k`."""
        if k < 1:
            return []
        places, losses = matches.places, -matches.scores
        if len(places) > k:
            least = np.partition(losses, k - 1)[k - 1]
            better, equal = places[losses < least], places[losses == least]
            last = nsmallest(k - len(better), (self._names[place] for place in equal.tolist()))
            losses = losses[losses < least]
        else:
            better, last, least = places, [], 0.0
        first = sorted(zip(losses.tolist(), (self._names[place] for place in better.tolist()), strict=True))
        return first + [(float(least), name) for name in last]

    def _matching(self, asked: tuple[str, ...]) -> tuple[_Matches, _Matches]:
        """The items with every word, and those with some."""
        sought = _affordable([[self._postings[word] for word in either] for either in self._known(asked)])
        self.postings_read += sum(len(postings.places) for either in sought for postings in either)
        scores = np.zeros(len(self._names))  # (places,)
        having = np.zeros(len(self._names), np.int8)  # words of the query
        lengths = np.frombuffer(self._lengths, np.int32)
        norm = K1 * (1 - B + B * lengths * (len(self) / max(self._total, 1)))
        for either in sought:
            has = np.zeros(len(self._names), np.bool_)
            for postings in either:
                places, counts = np.frombuffer(postings.places, np.int32), np.frombuffer(postings.counts, np.float32)
                idf = max(float(np.log((len(self) - len(places) + 0.5) / (len(places) + 0.5))), LEAST_IDF)
                scores[places] += idf * counts * (K1 + 1) / (counts + norm[places])
                has[places] = True
            having += has
        every = having == len(sought)
        return _kept(np.flatnonzero(every & (having > 0)), scores), _kept(np.flatnonzero(~every & (having > 0)), scores)

    def _known(self, asked: Sequence[str]) -> list[list[str]]:
        """What to look for; words that no item has are left out.

        The last word may be the beginning of one, and then it is any of several.
        """
        known = [[word] for word in asked if word in self._postings]
        if asked and len(asked[-1]) >= SHORTEST_STEM and asked[-1] not in self._postings:
            stems = sorted(self._beginning_with(asked[-1]), key=lambda word: (-len(self._postings[word].places), word))
            if stems:
                known.append(stems[:MOST_ENDINGS])
        return known

    def _beginning_with(self, stem: str) -> list[str]:
        """The first MOST_STEMS words that do, in their order."""
        if len(self._unsorted) > MANY_NEW or len(self._sorted) > 2 * len(self._postings) + MANY_NEW:
            self._sorted, self._unsorted = sorted(self._postings), []
        for word in self._unsorted:
            at = bisect_left(self._sorted, word)
            if self._sorted[at : at + 1] != [word]:
                self._sorted.insert(at, word)
        self._unsorted.clear()
        following = islice(self._sorted, bisect_left(self._sorted, stem), None)
        begun = takewhile(lambda word: word.startswith(stem), following)
        return list(islice((word for word in begun if word in self._postings), MOST_STEMS))


def _affordable(sought: Sequence[Sequence[_Postings]]) -> list[Sequence[_Postings]]:
    """The rarest of what is sought, for at most MOST_POSTINGS together, but always the rarest one; in their order."""
    costs = [sum(len(postings.places) for postings in either) for either in sought]
    rarest = sorted(range(len(sought)), key=costs.__getitem__)
    within = np.cumsum([costs[at] for at in rarest]) <= MOST_POSTINGS
    kept = {at for place, at in enumerate(rarest) if place == 0 or within[place]}
    return [either for at, either in enumerate(sought) if at in kept]


def _kept(places: Int64, scores: Float64) -> _Matches:
    if len(places) > MOST_MATCHES:
        places = places[np.sort(np.argpartition(-scores[places], MOST_MATCHES - 1)[:MOST_MATCHES])]
    return _Matches(places.astype(np.int32), scores[places].astype(np.float32))
