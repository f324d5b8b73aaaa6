"""From a store to the journal that this process writes there."""

from __future__ import annotations

from catalog.journal.base import Journal
from catalog.store.base import Store


def journal_of(store: Store) -> Journal:
    """Return this process's journal for a storage, the same one for every caller.

    Parameters
    ----------
    store : Store
        Where the storage is.

    Returns
    -------
    Journal
        Nothing is written yet.
    """
    if store.is_local:
        from catalog.journal.append import local_journal

        return local_journal(store)
    from catalog.journal.upload import object_journal

    return object_journal(store)
