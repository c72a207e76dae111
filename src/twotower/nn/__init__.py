"""Differentiable parts shared by the models."""
