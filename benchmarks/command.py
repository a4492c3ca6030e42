"""What a person typed, for records that are read by others."""

from __future__ import annotations

import re
import shlex
import sys


def typed() -> str:
    """The command line of this process as it can be typed again, without passwords."""
    return without_password(shlex.join(["bench", *sys.argv[1:]]))


def without_password(text: str) -> str:
    """`text`, with what comes before an @ in every address in it replaced, and what follows a ?."""
    return re.sub(r"([a-z][\w+.-]*://)([^\s'\"]*@)?([^\s'\"?]*)(\?[^\s'\"]*)?", _shown, text, flags=re.IGNORECASE)


def _shown(address: re.Match[str]) -> str:
    scheme, user, rest, query = address.groups()
    return f"{scheme}{'***@' if user else ''}{rest}{'?***' if query else ''}"
