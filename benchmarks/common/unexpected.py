"""An unexpected error: one sentence for the terminal, and the stack trace in a file."""

from __future__ import annotations

import tempfile
import traceback

from ...methods.parts.messages import cut
from .redact import typed, without_password
from .text import plain


def describe(error: BaseException) -> str:
    """The sentence, which names the file. The file is in the system's temporary folder; without one, no file is named.

    Passwords in addresses are in neither.
    """
    if isinstance(error, MemoryError):
        return "not enough memory"
    what = plain(without_password(traceback.format_exception_only(error)[0]))
    details = without_password("".join(traceback.format_exception(error)))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="consistency-bench-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(f"{typed()}\n{details}")
    except OSError:
        return f"unexpected error: {cut(what, 300)}"
    return f"unexpected error: {cut(what, 300)}; details are in {file.name}"
