"""Where an HTTP message ends, for our own two sides of a benchmark, which frame by `Content-Length` alone."""

from __future__ import annotations

import re

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def message_size(received: bytes) -> int | None:
    """The bytes of the first message in *received*, or None while it is not whole."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    length = _LENGTH.search(received, 0, end)
    size = end + 4 + (int(length[1]) if length else 0)
    return size if size <= len(received) else None
