"""Hand-written CPU kernels for what torch's own are slow at, built once with the machine's C compiler."""

from ddistill.networks.kernels.convolution import convolve
from ddistill.networks.kernels.instance_block import available, norm_relu_pool, serves

__all__ = ["available", "convolve", "norm_relu_pool", "serves"]
