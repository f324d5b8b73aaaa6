"""A storage that lies in a bucket, or in any other place that fsspec reaches."""
