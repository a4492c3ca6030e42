"""What a person typed, for records that are read by others."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence

#: An address within a longer text, where blanks and quotes end it.
ADDRESS = re.compile(r"[a-z][\w+.-]{0,63}://[^\s'\"]*", re.IGNORECASE)
#: A name and a password before a host, where the address is misspelt. Begins where a word does: each is read once.
CREDENTIALS = re.compile(r"(?<![^\s'\"/@]):*[^\s'\"/@:]+:[^\s'\"/@]+@(?=\w)")


def typed() -> str:
    """The command line of this process as it can be typed again, without passwords."""
    return command_line(["bench", *sys.argv[1:]])


def command_line(words: Sequence[str]) -> str:
    """Words of a command as a shell takes them, without passwords; in a single word an address may hold anything."""
    return shlex.join(_shown(word) if "://" in word else word for word in words)


def without_password(text: str) -> str:
    """`text`, with what comes before an @ in every address in it replaced, and what follows a ?."""
    return CREDENTIALS.sub("***@", ADDRESS.sub(lambda address: _shown(address[0]), text))


def _shown(address: str) -> str:
    scheme, _, rest = address.partition("://")
    place, asks, _ = rest.partition("?")
    _, at, host = place.rpartition("@")
    if not at and "@" in rest:  # a ? within the password
        _, at, host = rest.rpartition("@")
        host, asks, _ = host.partition("?")
    return f"{scheme}://{'***@' if at else ''}{host}{'?***' if asks else ''}"
