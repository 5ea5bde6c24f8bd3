"""Architectures, the distilled backbone, the detector around it, and when which part of it trains.

Not here: reading weights files (``checkpoints``) and training (``engine``). May import: ``utils``, ``errors``.
"""
