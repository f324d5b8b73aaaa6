"""The DuckDB file that is a cache of journal and blobs: its schema, its lock, how events are folded into it.

It imports `journal`, `store` and `format`.
"""
