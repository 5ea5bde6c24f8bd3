"""Probing of backbones: which checkpoint knows objects best, before a detector is trained.

Not here: runs and their comparison (``compare``). May import: everything below ``experiments``.
"""
