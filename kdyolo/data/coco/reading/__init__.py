"""Reading one COCO annotation file for a conversion: fast where it is regular, record by record where it is not.

Not here: what is made of the records. May import: ``coco_json``, ``data.image_names``, ``utils``, ``errors``.
"""
