"""Attacks on image quality models, one module per attack."""

if not __name__.startswith("iqarena."):
    raise ImportError("import iqarena.attacks instead of attacks")
