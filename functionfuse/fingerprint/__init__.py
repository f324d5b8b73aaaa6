"""Fingerprints of code and of values, which tell whether a result was made by this code from these inputs."""

from functionfuse.fingerprint._code import of_function
from functionfuse.fingerprint._digest import SCHEME, combine, comparable
from functionfuse.fingerprint._values import of_value

__all__ = ["SCHEME", "combine", "comparable", "of_function", "of_value"]
