"""Events, subscriptions, deliveries and attempts, tenants, tokens and event types in one SQLite file."""

from hookengine.store import changes, registry, replays
from hookengine.store.faults import raise_if_fatal
from hookengine.store.intake import Answer, Draft, Key, Receipt, Recorded, Replay, Result
from hookengine.store.listing import BEFORE_ALL, Slice
from hookengine.store.rows import Names, Receiver, StoredAttempt, Went, as_stored
from hookengine.store.store import Store
from hookengine.store.transaction import Transaction

__all__ = [
    "BEFORE_ALL",
    "Answer",
    "Draft",
    "Key",
    "Names",
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
    "as_stored",
    "changes",
    "raise_if_fatal",
    "registry",
    "replays",
]
