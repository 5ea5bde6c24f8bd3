"""Proof of what a backbone learned, in numbers and pictures: functions of tensors alone.

Not here: images, files of checkpoints, tables. May import: ``checkpoints`` and all below.
"""
