"""The algebra: one attention call as data, planned onto flash kernels. Knows no model and no paper."""
