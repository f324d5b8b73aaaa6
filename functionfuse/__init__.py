"""Workflows of plain Python functions and classes, whose results are stored and can be found again."""

from functionfuse.workflow import task, workflow

__all__ = ["task", "workflow"]
