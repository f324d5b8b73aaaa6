"""The format: what storage and catalog share of it, as typed values.

Whatever is read is validated once, here, and everything behind relies on it. Imports nothing but names, ids and errors.
"""
