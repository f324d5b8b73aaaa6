"""The backends that come with functionfuse."""
