"""Where results are kept."""

from functionfuse.storage.base import InvalidPickle, Storage
from functionfuse.storage.storage_factory import open_storage, storage_factory

__all__ = ["InvalidPickle", "Storage", "open_storage", "storage_factory"]
