"""The dialects: a module each, of msgspec structs and what makes them jobs and answers. dialects.py puts them
together.
"""
