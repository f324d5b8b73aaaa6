"""Blobs and side files held against the catalog, both ways, and repaired.

It imports `index` and what is below.
"""
