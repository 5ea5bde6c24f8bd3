"""Data sets on disk: COCO to YOLO and back, dataset YAMLs, labels, images, and data sets that are drawn.

Not here: scoring predictions (``metrics``) and loading batches (``engine``). May import: ``utils``, ``errors``.
"""
