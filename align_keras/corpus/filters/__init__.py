"""The paper's filters (section 3), in memory and on tables larger than memory."""
