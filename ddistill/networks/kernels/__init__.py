"""Hand-written kernels for what torch's own are slow at: in C for a CPU, built once, and in Triton for a GPU.

`DDISTILL_KERNELS=off` does without any. Those in Triton are off unless `DDISTILL_KERNELS=triton` asks for them.
"""

from ddistill.networks.kernels.convolution import convolve
from ddistill.networks.kernels.instance_block import available, norm_relu_pool, serves

__all__ = ["available", "convolve", "norm_relu_pool", "serves"]
