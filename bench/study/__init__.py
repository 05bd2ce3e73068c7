"""The study of CPRL: the variants and their training, the suite of attacks on them, and the evaluation of the records."""

from iqarena.bench.process import shorten_waiting

shorten_waiting()  # before the trainings load torch
