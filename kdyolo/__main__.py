"""``python -m kdyolo`` is the ``kdyolo`` command."""

from kdyolo.cli import main

if __name__ == "__main__":
    main()
