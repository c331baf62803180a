"""The daemon's log lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO, cast

import orjson
import structlog

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger, Processor


def make_logger(level: str, form: str, stream: TextIO, *, colors: bool) -> FilteringBoundLogger:
    """
    A logger that writes what is of *level* or worse to *stream*, as `console` or `json` lines.

    It is configured by itself: nothing global changes.
    """
    # Not the default: with rich installed that prints every local variable, secrets too.
    plain = structlog.dev.plain_traceback
    renderers: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]
        if form == "json"
        # A text is shown as its repr: it may be a receiver's, and escapes in it must not reach the terminal.
        else [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain, repr_native_str=True)]
    )
    logger = structlog.wrap_logger(
        structlog.WriteLogger(stream),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
    )
    return cast("FilteringBoundLogger", logger)


def _json(line: object, **_: object) -> str:
    return orjson.dumps(line, default=str).decode()
