"""Where results are kept."""

from functionfuse.storage.base import InvalidPickle, Storage
from functionfuse.storage.storage_factory import storage_factory

__all__ = ["InvalidPickle", "Storage", "storage_factory"]
