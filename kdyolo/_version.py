"""The version of kdyolo."""

__version__ = "0.1.0"
