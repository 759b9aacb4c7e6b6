"""Where other tools take part: Olive's workflows, and a build by TensorRT."""
