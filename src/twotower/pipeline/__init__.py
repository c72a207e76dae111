"""From one recipe to a trained, evaluated cascade."""
