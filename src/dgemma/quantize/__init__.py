"""A checkpoint in fewer bits: what becomes what, scales by their error, and what it costs."""
