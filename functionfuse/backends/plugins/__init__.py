"""Plugins: what a backend does around the nodes it sends to workers."""

from functionfuse.backends.plugins.baseplugins import InitializerPlugin, Plugin, PluginCollection, RandomStatePlugin

__all__ = ["InitializerPlugin", "Plugin", "PluginCollection", "RandomStatePlugin"]
