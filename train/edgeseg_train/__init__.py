"""Training: PyTorch networks, data, losses, the loop and checkpoints. Imports torch; the runtime never does."""
