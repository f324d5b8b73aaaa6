"""What happened, in segments: appended on a disk, uploaded to a bucket, read, and compacted to Parquet.

It imports `store` and `format`.
"""
