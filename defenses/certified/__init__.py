"""Defenses that certify how far a bounded perturbation of an image can move its score."""
