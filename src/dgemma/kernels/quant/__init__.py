"""Number formats: what the codes of a weight in few bits mean, and products that decode them."""
