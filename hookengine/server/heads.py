"""The heads of requests that publish: those of one producer differ in nothing but the length of the body."""

from __future__ import annotations

import re
from typing import NamedTuple

_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\nContent-Length:[ \t]{0,8}([0-9]{1,9})(?=\r\n)", re.IGNORECASE)


class Head(NamedTuple):
    """
    The head of a request that was parsed, without the length of its body.

    Owned by the connection on which it came. A request with the same bytes, but for that length, means the same, and is not
    parsed again: that takes a tenth of all that is done for an event (docs/performance.md).
    """

    before: bytes  # up to the length
    behind: bytes  # from there on, with the empty line
    authorization: str | None

    def body(self, data: bytes) -> bytes | None:
        """The body of *data*, if that is one whole request with this head, and nothing else."""
        start = len(self.before)
        end = data.find(b"\r\n", start, start + 11)
        length = data[start:end]
        if end < 0 or not (length.isdigit() and data.startswith(self.before) and data.startswith(self.behind, end)):
            return None
        body = data[end + len(self.behind) :]
        return body if len(body) == int(length) else None


def alone(data: bytes, size: int) -> bytes | None:
    """
    The head of a request with *size* bytes of body, if that is all that *data* is.

    So it is where no byte is left for another request, nor for the sizes of chunks.
    """
    end = data.find(_END) + len(_END)
    # The parser may take less for the end of a line, and then the head ends before that.
    return data[:end] if len(data) == end + size and data.count(b"\n", 0, end) == data.count(b"\r\n", 0, end) else None


def begins_behind(data: bytes, size: int) -> bool:
    """
    Whether *data* goes on behind the request that it ends, with *size* bytes of its body, as far as can be told.

    Without a body, or with one in chunks, it ends with an empty line, of which less may be here than elsewhere.
    """
    return not (_is_end(data, len(data)) or _is_end(data, len(data) - size))


def _is_end(data: bytes, end: int) -> bool:
    last = data[max(0, end - len(_END)) : end].replace(b"\r", b"")
    return last.endswith(b"\n\n") or b"\n\n".endswith(last)


def head_of(head: bytes, authorization: str | None) -> Head | None:
    """What is remembered of *head*; None where it tells no length."""
    found = _LENGTH.search(head)
    return None if found is None else Head(head[: found.start(1)], head[found.end(1) :], authorization)
