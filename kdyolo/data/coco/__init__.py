"""Reading COCO annotation files, and writing what follows from them into OUT or not at all.

Not here: the two ways in as a whole (``data.coco_to_yolo``, ``data.yolo_to_coco``). May import: ``data``,
``coco_json``, ``utils``.
"""
