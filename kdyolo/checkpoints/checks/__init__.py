"""What a file is looked through for before, or right after, somebody else's loader reads it.

Not here: reading it (``safe_load``). May import: ``models``, ``utils``.
"""
