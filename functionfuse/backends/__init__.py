"""Backends: where and how the nodes of a workflow run."""
