"""``python -m bench`` is ``iqarena``."""

from bench.cli import main

if __name__ == "__main__":
    main()
