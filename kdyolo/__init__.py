"""kdyolo: from a distilled backbone to a COCO detector on Ultralytics.

``import kdyolo`` is light: torch and Ultralytics are imported only when one of the public names is first used. These
stand in ``__init__.pyi``, once for type checkers and for the lazy loader.
"""

import lazy_loader

from kdyolo._version import __version__

__getattr__, __dir__, _public = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *_public]
