"""Events, subscriptions, deliveries and attempts, tenants, tokens and event types in one SQLite file."""

from hookengine.store import changes, registry, replays
from hookengine.store.faults import raise_if_fatal
from hookengine.store.intake import Answer, Draft, Key, Receipt, Recorded, Replay, Result
from hookengine.store.listing import BEFORE_ALL, Slice
from hookengine.store.reader import Reader
from hookengine.store.rows import Receiver, StoredAttempt, Went, as_stored
from hookengine.store.store import Store
from hookengine.store.transaction import Transaction
from hookengine.store.writer import Writer

__all__ = [
    "BEFORE_ALL",
    "Answer",
    "Draft",
    "Key",
    "Reader",
    "Receipt",
    "Receiver",
    "Recorded",
    "Replay",
    "Result",
    "Slice",
    "Store",
    "StoredAttempt",
    "Transaction",
    "Went",
    "Writer",
    "as_stored",
    "changes",
    "raise_if_fatal",
    "registry",
    "replays",
]
