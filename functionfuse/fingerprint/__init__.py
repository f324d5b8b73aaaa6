"""Fingerprints of code and of values, which tell whether a result was made by this code from these inputs."""

from functionfuse.fingerprint._closure import Closure, Code
from functionfuse.fingerprint._code import code_of, of_function
from functionfuse.fingerprint._digest import SCHEME, combine, comparable
from functionfuse.fingerprint._files import of_file
from functionfuse.fingerprint._parts import look_again
from functionfuse.fingerprint._values import of_value

__all__ = [
    "SCHEME",
    "Closure",
    "Code",
    "code_of",
    "combine",
    "comparable",
    "look_again",
    "of_file",
    "of_function",
    "of_value",
]
