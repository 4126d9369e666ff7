"""Policies in files that other programs can act with: ONNX."""
