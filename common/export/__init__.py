"""MindIR and ONNX files of a trained network, and inference outside of Python."""
