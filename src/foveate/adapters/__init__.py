"""How a live model's attention calls reach the engine."""
