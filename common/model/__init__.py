"""What a model folder provides (`Recipe`), a network with all that belongs to it, checkpoints."""
