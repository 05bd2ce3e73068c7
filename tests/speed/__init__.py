"""What the harness costs, as ratios taken in one run: ``python -m tests.speed [GROUP]… [--json] [--write]``."""
