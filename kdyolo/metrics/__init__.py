"""Official COCO metrics, confidence intervals over images, and kinds of errors (TIDE).

Not here: when a run is evaluated (``engine``) and comparing runs (``experiments``). May import: ``utils``, ``errors``.
"""
