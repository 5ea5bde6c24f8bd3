"""COCO's JSON files as people's tools write them, read into one regular form: the definition of a readable record.

Not here: what is made of the records (``data``, ``metrics``). May import: ``utils``, ``errors``.
"""
