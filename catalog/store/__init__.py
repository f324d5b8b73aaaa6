"""Bytes under a root: a folder on a disk, or objects under a URL.

It knows no journal and no index; it imports `format`.
"""
