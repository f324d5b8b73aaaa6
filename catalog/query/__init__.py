"""Questions: filters, times and units as people write them, and the SQL that they become.

It imports `index.schema` and `format`.
"""
