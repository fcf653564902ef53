"""From AnnData to arrays: counts, genes, features, neighbours, batches, what the user knows."""
