"""Defenses of image quality models."""

if not __name__.startswith("iqarena."):
    raise ImportError("import iqarena.defenses instead of defenses")
