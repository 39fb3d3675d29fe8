"""One run of the whole method: the graph of its stages, the keys of their results, and what computes those missing."""
