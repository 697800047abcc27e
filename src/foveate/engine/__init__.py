"""The algebra: one attention call as data, planned onto kernels. Knows no model, no paper."""
