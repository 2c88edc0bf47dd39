"""Which language a text is in, so that English goes to the transformer and the rest to the student.

CLD2 decides, from tables that it brings along: offline, some ten microseconds a text, the same answer every time.
"""

from typing import Final

import pycld2

ENGLISH: Final = "en"
_UNKNOWN: Final = "un"


def detect(line: str) -> str | None:
    """Return the ISO 639-1 code (or CLD2's own where there is none) of a normalised text; None where it is too short.

    >>> detect("Der Kaffee war kalt und der Kellner auch.")
    'de'
    >>> detect("Ok") is None
    True
    """
    try:
        _, _, found = pycld2.detect(line.replace("@user", "").replace("http", ""))
    except pycld2.error:  # not a text: characters that are no part of any interchange
        return None
    code: str = found[0][1]
    return None if code == _UNKNOWN else code


def is_english(line: str, lang: str | None = None) -> bool:
    """Say whether a normalised text is English: by `lang`, a code such as "en" or "en-GB", where the event has one.

    >>> is_english("Ok", "en_US"), is_english("The coffee was cold and so was the waiter."), is_english("Ok")
    (True, True, False)
    """
    if lang:
        return lang.replace("_", "-").partition("-")[0].lower() == ENGLISH
    return detect(line) == ENGLISH
