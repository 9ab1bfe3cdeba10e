"""From manifests over MindRecord files to batches."""
