"""A fuzzer of everything that capgpu reads from files: ``python -m tools.fuzz --mutants 5000``.

A format is the way to write sound files and to read them. Mutants are made from sound files by mutators that know the
structure: many keep or renew checksums, so that the mutation gets past them. Each mutant is either read, or refused by
an error that names the file. The same seed gives the same mutants.
"""
