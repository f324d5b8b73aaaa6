"""Which results a rule of retention would remove.

It imports `query`.
"""
