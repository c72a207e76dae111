"""How good an order, a probability or a funnel is: pure functions of tensors."""
