"""Classic convolutional networks on Fashion-MNIST: PyTorch Lightning trains, Hydra composes, TensorBoard shows."""
