"""Which operators ONNX Runtime and TensorRT have float16 and bfloat16 kernels for."""
