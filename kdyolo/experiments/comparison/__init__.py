"""A comparison of runs as data: arms, settings, metrics, tests of differences; and as text and data frames.

Not here: pages and charts (``experiments.report``), starting runs (``study``). May import: ``runs`` and below.
"""
