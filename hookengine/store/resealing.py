"""A change of the encryption key: what is sealed with an older one is sealed anew, so that the older one can be dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hookengine.errors import StorageCorrupt
from hookengine.store.queries import sql

if TYPE_CHECKING:
    import aiosqlite

    from hookengine.vault import Vault


async def reseal(db: aiosqlite.Connection, vault: Vault) -> int:
    """
    Seal with the first key, in one transaction, all that another one of *vault* opens; how many values that were.

    What none of them opens stays as it is. Nothing is written, and no lock is needed, where there is nothing to do.
    """
    found = list(await db.execute_fetchall(sql.sealed_otherwise, (vault.head,)))
    if not found:
        return 0
    statements = {
        "subscription": sql.reseal_subscription,
        "tenant": sql.reseal_tenant,
        "access token": sql.reseal_access_token,
        "check value": sql.reseal_check_value,
    }
    count = 0
    await db.execute("BEGIN IMMEDIATE")
    try:
        for kind, key, context, sealed in found:
            try:
                text = vault.open(sealed, context)
            except StorageCorrupt:
                continue
            await db.execute(statements[kind], (vault.seal(text, context), key))
            count += 1
        await db.commit()
    except BaseException:
        await db.rollback()
        raise
    return count
