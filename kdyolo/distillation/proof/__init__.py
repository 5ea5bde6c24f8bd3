"""Proof of what a backbone learned, in numbers and pictures, and the objects that it is measured on.

Not here: files of checkpoints, tables. May import: ``checkpoints`` and all below, and the geometry of distillation.
"""
