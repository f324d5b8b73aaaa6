"""What storage and catalog share: names, ids, the record that a blob ends in, kinds of events.

It imports the exceptions alone.
"""
