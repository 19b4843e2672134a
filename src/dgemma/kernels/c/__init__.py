"""The operations in C for processors with AVX-512, and what calls them."""
