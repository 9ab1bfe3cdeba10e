"""Files, errors, logging, worker processes, downloads, and the import of MindSpore (`backend`)."""
