"""Losses: pure functions of tensors, and the running estimate of item frequency that softmax needs."""
