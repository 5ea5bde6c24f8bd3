"""Several runs: grouped into arms, compared, reported; and studies, which start them.

Not here: one run (``runs``, ``engine``). May import: everything but ``cli``.
"""
