"""Overhead of the harness, as ratios measured in one run: ``python -m tests.speed [GROUP]… [--json] [--write]``."""
