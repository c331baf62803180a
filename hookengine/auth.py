"""How requests prove who sends them, beside the signature."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

from hookengine.models import Secret

if TYPE_CHECKING:
    from hookengine.models import BasicAuth


def basic(auth: BasicAuth) -> tuple[str, Secret]:
    """The Authorization header of RFC 7617, with UTF-8 as its section 2.1 advises."""
    return "authorization", Secret("Basic " + b64encode(f"{auth.username}:{auth.password}".encode()).decode("ascii"))
