"""Defenses that change the network; each is a recipe that trains the changed network."""
