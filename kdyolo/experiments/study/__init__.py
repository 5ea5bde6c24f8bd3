"""Studies: a file that says arms, seeds and devices, everything in it checked, and its runs started and watched.

Not here: what their results mean (``experiments.comparison``). May import: all of ``experiments`` but ``watch``.
"""
