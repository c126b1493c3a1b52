"""Export: checkpoints to ONNX files that carry their card, compared with PyTorch before they are written."""
