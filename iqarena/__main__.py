"""``python -m iqarena`` is the command ``iqarena``."""

from iqarena.bench.cli.app import main

if __name__ == "__main__":
    main()
