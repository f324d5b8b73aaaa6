"""How an object becomes bytes."""

from functionfuse.serializers.base import FILE_PROTOCOL, S3_PROTOCOL, Serializer, generate_name

__all__ = ["FILE_PROTOCOL", "S3_PROTOCOL", "Serializer", "generate_name"]
