"""Small worlds with exact answers."""
