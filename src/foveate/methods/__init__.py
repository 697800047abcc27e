"""Papers as rewrites of one attention call's program, one file per idea."""
