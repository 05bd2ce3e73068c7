"""Defenses that state how far a bounded change of an image can move the score."""
