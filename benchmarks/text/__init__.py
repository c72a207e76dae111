"""The parts of `benchmarks.text_towers`."""
