"""Where clusters start: candidate partitions, their consensus, the number of clusters."""
