"""Teachers: frozen networks that give feature maps of known cells, whoever made them.

Not here: which map teaches which level (``taps``), standardising (``targets``). May import: all below ``distillation``.
"""
