"""Defenses that state how far a bounded change of a picture can move the score."""
