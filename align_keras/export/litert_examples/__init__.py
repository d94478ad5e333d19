"""Example programs that `align-keras export litert` copies to the export."""
