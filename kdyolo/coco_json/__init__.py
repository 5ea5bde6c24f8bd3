"""COCO's JSON files as people's tools write them, read into one regular form: what a readable record is, for every command.

Not here: what is made of the records (``data``, ``metrics``). May import: ``utils``, ``errors``.
"""
