"""Files, errors, logging, worker processes, downloads, and the door to MindSpore (`backend`)."""
