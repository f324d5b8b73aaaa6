"""What a notebook shows.

It imports `index` and what is below.
"""
