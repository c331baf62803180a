"""Where a test ends a process that the launcher starts: what `faults` is told."""

from __future__ import annotations

from typing import Any


def at(name: str, passage: int = 1) -> dict[str, Any]:
    """SIGKILL at a failpoint."""
    return {"kind": "at", "name": name, "passage": passage}


def at_statement(pattern: str, passage: int = 1, delay: float = 0.0) -> dict[str, Any]:
    """SIGKILL when a statement begins, or *delay* seconds later."""
    return {"kind": "at_statement", "pattern": pattern, "passage": passage, "delay": delay}


def at_row(table: str, passage: int = 1) -> dict[str, Any]:
    """SIGKILL within a commit."""
    return {"kind": "at_row", "table": table, "passage": passage}


def at_call(pattern: str, passage: int = 1) -> dict[str, Any]:
    """SIGKILL before a call into the system."""
    return {"kind": "at_call", "pattern": pattern, "passage": passage}


# SIGXFSZ in the middle of a write, once `Daemon.tear` has said where.
AT_SIZE = {"kind": "at_size"}
