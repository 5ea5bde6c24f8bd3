"""Contents of the files in a run folder: each is read here only, whatever it holds, as values of known kinds.

Not here: what follows from the values (``runs``). May import: ``runs.files``, and what is below ``runs``.
"""
