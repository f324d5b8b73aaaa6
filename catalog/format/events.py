"""The kinds of events that a journal tells of.

All are fixed, also those that this version neither writes nor acts on: it keeps such an event in the table `events`,
as it does one of a kind that it does not know at all, and lets no result appear or go by it. What is really there the
blobs tell whoever reads or verifies (design note 17).
"""

from __future__ import annotations

from enum import Enum


class Kind(str, Enum):
    """What an event tells."""

    #: A result was stored, perhaps over another.
    SAVE = "save"
    #: A result was removed.
    REMOVE = "remove"
    #: A version became the result of its name again; the whole record, with `blob_id` and `replaces`. Not written yet.
    RESTORE = "restore"
    #: Versions were pruned, one event a run; their ids in `details`. Not written yet.
    EXPIRE = "expire"
    #: Source of a function or class, once for each fingerprint. Not written yet.
    CODE = "code"
    RUN_STARTED = "run-started"
    RUN_FINISHED = "run-finished"
    TASK_FAILED = "task-failed"
    #: A name was protected from `gc`, and no longer.
    PIN = "pin"
    UNPIN = "unpin"
