"""One script per question; each writes its answer to ``benchmarks/results``."""
