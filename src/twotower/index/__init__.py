"""Item tables and indexes: what is known of every item ahead of time, on disk and searchable."""
