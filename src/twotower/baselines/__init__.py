"""Retrievers without gradients: what every trained model has to beat."""
