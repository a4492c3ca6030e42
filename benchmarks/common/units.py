"""Amounts of memory and time, as people write them in files."""

from __future__ import annotations

import re

MEMORY = "text such as 512M, 32G or 1T"
DURATION = "text such as 90m, 24h or 1d12h, or '1-12:00:00' in quotes"


def megabytes(value: object) -> int:
    """`32G` -> 32768, as SLURM counts. Raises ValueError for what is no such text."""
    match = re.fullmatch(r"(\d{1,9})([MGT])B?", value) if isinstance(value, str) else None
    if match is None or int(match[1]) == 0:
        raise ValueError
    return int(match[1]) * 1024 ** "MGT".index(match[2])


def minutes(value: object) -> int:
    """`1d12h`, `90m` or SLURM's `1-12:00:00` and `01:30:00` -> minutes, begun ones counted. Raises ValueError."""
    text = value if isinstance(value, str) else ""
    found = re.fullmatch(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?", text)
    found = found or re.fullmatch(r"(?:(\d{1,9})-)?(\d{1,9}):(\d\d):(\d\d)", text)
    if found is None:
        raise ValueError
    days, hours, whole, *seconds = (int(part or 0) for part in found.groups())
    total = 60 * (24 * days + hours) + whole + any(seconds)
    if total < 1:
        raise ValueError
    return total
