"""HTML pages and charts of measurements."""
