"""The harness of the benchmark; see docs/architecture.md for its packages."""

if not __name__.startswith("iqarena."):
    raise ImportError("import iqarena.bench instead of bench")
