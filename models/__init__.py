"""Image quality models: one file an architecture."""

if not __name__.startswith("iqarena."):
    raise ImportError("import iqarena.models instead of models")
