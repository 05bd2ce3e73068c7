"""The study of CPRL: what is trained, how it is attacked, and what follows from the records."""
