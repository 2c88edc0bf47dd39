"""Hashed n-grams of texts, for the student: NumPy over a whole batch, with no work in Python for each n-gram.

Normalised texts come in, a bucket for each distinct n-gram of each text goes out. Which buckets a text gets depends on
the text alone: hashes are integers, and none reaches over the end of a text.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

CHARACTERS: Final = (3, 4, 5)
"""Lengths of the character n-grams, blanks at both ends of the text included."""

BITS: Final = 18
BLOCK: Final = 1 << BITS
BUCKETS: Final = 2 * BLOCK
"""The first half is for characters, the second for words and pairs of words."""

_END: Final = 10
_BLANK: Final = 32
_STEP: Final = np.uint32(0x01000193)
_MIX: Final = np.uint32(0x2C1B3C6D)
MAX_TEXTS: Final = 1 << (32 - BITS - 1)
"""Texts of one call: their number shares 32 bits with the bucket."""

Codes: TypeAlias = npt.NDArray[np.uint32]
Flags: TypeAlias = npt.NDArray[np.bool_]
Indices: TypeAlias = npt.NDArray[np.int64]


class Grams(NamedTuple):
    """`buckets` (n,) of all texts one after the other; text i has `counts[i]` of them, ascending, from `starts[i]`."""

    buckets: Codes
    starts: Indices
    counts: Indices


def extract(lines: Sequence[str]) -> Grams:
    """Return the distinct n-grams of at most `MAX_TEXTS` normalised texts. An empty text has none."""
    codes = _codes(lines)
    end = codes == _END
    text = (np.cumsum(end) - end).astype(np.uint32)
    found = [*_character_grams(codes, end, text), *_word_grams(codes, end, text)]
    keys = np.concatenate(found)
    keys.sort()
    first = np.ones(len(keys), dtype=np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    keys = keys[first]
    starts = np.searchsorted(keys, np.arange(len(lines), dtype=np.uint32) << np.uint32(BITS + 1))
    buckets: Codes = keys & np.uint32(BUCKETS - 1)
    return Grams(buckets, starts, np.diff(starts, append=len(keys)))


def _codes(lines: Sequence[str]) -> Codes:
    """Return the code points of all texts in small letters, each between blanks and closed by a line end."""
    joined = "".join([f" {line.lower()} \n" for line in lines])
    codes = np.frombuffer(joined.encode("utf-32-le"), dtype=np.uint32)
    # "soooo" and "sooo" are one word
    longer = np.ones(len(codes), dtype=np.bool_)
    longer[2:] = (codes[2:] != codes[1:-1]) | (codes[2:] != codes[:-2])
    return codes[longer]


def _character_grams(codes: Codes, end: Flags, text: Indices) -> list[Indices]:
    found = []
    last = np.flatnonzero(end)
    left = last[text] - np.arange(len(codes))  # characters from here to the end of the text
    value = codes.copy()
    for length in range(2, max(CHARACTERS) + 1):
        value = value[:-1] * _STEP + codes[length - 1 :]
        if length in CHARACTERS:
            whole = left[: len(value)] >= length
            found.append(_keys(value[whole] + np.uint32(length), text[: len(value)][whole], 0))
    return found


def _word_grams(codes: Codes, end: Flags, text: Indices) -> list[Indices]:
    blank = (codes == _BLANK) | end
    single = _is_sign(codes)
    start = ~blank
    start[1:] &= blank[:-1] | single[1:] | single[:-1]
    starts = np.flatnonzero(start)
    if not len(starts):
        return []
    place = _places(starts, len(codes))
    powers = _powers(int(place.max()) + 1)
    words = np.add.reduceat(
        np.where(blank, np.uint32(0), (codes + np.uint32(1)) * powers[place]), starts, dtype=np.uint32
    )
    owner = text[starts]
    same = owner[:-1] == owner[1:]
    pairs = (words[:-1] * _STEP ^ _mixed(words[1:]))[same]
    return [_keys(words, owner, BLOCK), _keys(pairs, owner[:-1][same], BLOCK)]


def _places(starts: Indices, size: int) -> Indices:
    before = np.zeros(size, dtype=np.int64)
    before[starts] = starts
    return np.arange(size) - np.maximum.accumulate(before)


def _powers(count: int) -> Codes:
    powers = np.full(count, _STEP)
    powers[0] = 1
    return np.multiply.accumulate(powers, dtype=np.uint32)


def _is_sign(codes: Codes) -> Flags:
    """Say which characters are words of their own: punctuation, emoji, and blanks, which no one asks about."""
    small = codes < 128
    letter = ((codes >= 97) & (codes <= 122)) | ((codes >= 48) & (codes <= 57)) | (codes == 95) | (codes == 39)
    wide = (codes >= 0x2E80) & (codes < 0x1F000)
    signs: Flags = (small & ~letter) | (~small & (codes < 0xC0)) | ((codes >= 0x2000) & ~wide)
    return signs


def _keys(value: Codes, text: Indices, offset: int) -> Indices:
    return (text << np.uint32(BITS + 1)) + np.uint32(offset) + (_mixed(value) >> np.uint32(32 - BITS))


def _mixed(value: Codes) -> Codes:
    value = (value ^ (value >> np.uint32(15))) * _MIX
    value = (value ^ (value >> np.uint32(12))) * np.uint32(0x297A2D39)
    return value ^ (value >> np.uint32(15))
