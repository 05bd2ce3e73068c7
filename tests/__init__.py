"""Tests in folders that mirror the packages, and tools: ``python -m tests.audits.NAME``, ``python -m tests.speed``."""

from iqarena.bench.process import shorten_waiting

shorten_waiting()  # before a tool loads torch
