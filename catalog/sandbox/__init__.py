"""Anybody's SQL, in a process that can do nothing else.

It imports `query`, `index` and what is below.
"""
