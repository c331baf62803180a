"""Interpreters of their own, in which nothing was imported before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def fresh(code: str, *arguments: str) -> str:
    """What a new interpreter, without site-packages where *arguments* say so, prints."""
    command = [sys.executable, "-I", *arguments, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
