"""Results files of any tool, read for a ground truth: ids tied, usual mistakes recognised.

Not here: scoring (``coco_metrics``). May import: ``coco_files``, ``coco_json``, ``utils``, ``errors``.
"""
