"""Models that come with the library: their folders, and the pipelines they run in."""
