"""The one form of a text that everything in this package sees: scorers, cache keys and the training data.

A text of any length and content comes in, a clean line of at most `MAX_CHARACTERS` goes out. Pure: the same text gives
the same line, and a line that is already normal comes back unchanged.
"""

import re
import unicodedata

MAX_CHARACTERS = 2_000
"""Longest normalised text, in code points; 256 tokens of English are about 1,200."""

_RAW_CHARACTERS = 4 * MAX_CHARACTERS
_WEB_ADDRESS = re.compile(r"(?:https?://|www\.\S)\S*", re.IGNORECASE)
_MENTION_BEFORE_OTHER_SCRIPT = re.compile(r"@\w+(?=[^\x00-\x7f\s])")
_MENTION = re.compile(r"@\w+")
_ASCII_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def normalise(text: str) -> str:
    """Return `text` in NFC without control characters, links or names of people, on one line.

    Links become `http` and mentions `@user` (as in the TweetEval data, and so that neither reaches a model or a cache
    key). Characters of the Unicode classes C* (controls, joiners, direction marks, lone surrogates) are removed,
    tabs and line ends count as blanks, runs of blanks become one. Only the first 8,000 code points are looked at.

    >>> normalise("Thanks  @anna!\\n See https://example.org/a?b=c")
    'Thanks @user! See http'
    """
    line = _without_controls(text[:_RAW_CHARACTERS])
    if not line.isascii():
        line = unicodedata.normalize("NFC", line)
    if "@" in line:
        # The blank keeps a combining mark after the name from melting into the "r" of "@user".
        line = _MENTION.sub("@user", _MENTION_BEFORE_OTHER_SCRIPT.sub("@user ", _WEB_ADDRESS.sub("http", line)))
    else:
        line = _WEB_ADDRESS.sub("http", line)
    return " ".join(line.split())[:MAX_CHARACTERS].rstrip()


def _without_controls(text: str) -> str:
    if text.isascii():
        return _ASCII_CONTROL.sub(_blank_or_nothing, text)
    category = unicodedata.category
    return "".join(c if category(c)[0] != "C" else " " if c in "\t\n\r\x85" else "" for c in text)


def _blank_or_nothing(control: re.Match[str]) -> str:
    return " " if control.group() in "\t\n\r" else ""
