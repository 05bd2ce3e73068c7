"""What the harness costs, as ratios taken in one run: ``python -m bench.speed [GROUP]… [--json] [--write]``."""
