"""Task vectors, their SVD basis, genomes and how to make weights of them."""
