"""What an index stores, in a folder or in PostgreSQL."""
