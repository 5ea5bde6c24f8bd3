"""One distillation run: its loop, its folder, what it resumes from and the backbone that it leaves.

Not here: what is learned from (``teachers``, ``targets``, ``views``), planning (``plan``). May import: the
modules that it names, and all below ``distillation``.
"""
