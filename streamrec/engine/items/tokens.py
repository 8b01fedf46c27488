"""The words of a text as they are compared, in catalogues and in what people search for: case and accents folded."""

from __future__ import annotations

import re
from itertools import islice
from unicodedata import combining, normalize

MOST_LETTERS = 64
"""Of a word; what is longer comes apart."""
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff"  # scripts that put no space between words
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\W{_IDEOGRAPHS}]{{1,{MOST_LETTERS}}}")


def words(text: str, most: int | None = None) -> list[str]:
    """Its words in reading order, the first `most` of them: runs of letters and digits, or single ideographs.

    >>> words("Crème brûlée, 2-er Set")
    ['creme', 'brulee', '2', 'er', 'set']
    """
    if not text.isascii():
        text = "".join(letter for letter in normalize("NFKD", text) if not combining(letter))
    return [found[0] for found in islice(_WORD.finditer(text.casefold()), most)]
