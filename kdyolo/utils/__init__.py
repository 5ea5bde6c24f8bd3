"""What knows nothing of detectors, COCO or runs: files, texts, tables, processes of this machine.

Not here: anything with a meaning in the field. May import: the standard library and packages; of kdyolo ``errors``.
"""
