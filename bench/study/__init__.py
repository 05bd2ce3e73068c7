"""The study of CPRL: the variants and their training, the suite of attacks on them, and the evaluation of the records."""
