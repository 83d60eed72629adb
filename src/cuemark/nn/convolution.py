"""A 3-D convolution over clips whose factorised kernels run as 2-D convolutions.

R(2+1)D (Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition", section 3.5) splits every
``3x3x3`` kernel into ``1x3x3`` and ``3x1x1``. Each half has an axis it does not look along, so it is a 2-D convolution
over a view of the clip: ``(B*T, C, H, W)`` for the first, ``(B, C, T, H*W)`` for the second. In the memory format
``channels_last_3d`` both views are free.

Why not leave the work to ``torch.nn.Conv3d``: on a CPU, PyTorch 2.13's bf16 backward of ``conv3d`` returns garbage
weight gradients (1e35, NaN) for every kernel that is 3 frames long on clips that are 2 frames long, which is what the
last layer of a ResNet sees; ``conv2d`` is right there. ``conv2d`` has a trap of its own: some taps of a kernel that
only ever see padding (a strided kernel over an image one pixel wide) get garbage instead of zero; such taps are left
out. ``benchmarks/bf16_conv3d.py`` measures both. The same path is taken on every device, so that what is tested is
what runs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Conv3d(nn.Conv3d):
    """``torch.nn.Conv3d`` with the same arguments, parameters and results, by the road described above.

    * Kernels ``(1, kh, kw)`` and ``(kt, 1, 1)`` run as ``conv2d``; a stride along an axis that the kernel does not
      span is taken by slicing first.
    * Any other kernel, dilation, padding mode, or padding along an axis that the kernel does not span, runs as
      ``conv3d``: on the CPU in float32 even under bf16 autocast, and the result has the dtype of the input.

    ``forward`` takes ``(B, C, T, H, W)`` in any memory format. On the first road the result is in ``channels_last_3d``
    and an input in that format is not copied, unless a stride is taken by slicing.
    """

    def forward(self, x: Tensor) -> Tensor:
        padding = self.padding
        if isinstance(padding, str) or not self._flat(padding):
            return self._whole(x)
        t, h, w = (s if k == 1 else 1 for k, s in zip(self.kernel_size, self.stride))
        x = x[:, :, ::t, ::h, ::w].contiguous(memory_format=torch.channels_last_3d)
        stride = [1 if k == 1 else s for k, s in zip(self.kernel_size, self.stride)]
        taps = [_taps(*of) for of in zip(x.shape[2:], self.kernel_size, stride, padding)]
        weight = self.weight[:, :, taps[0], taps[1], taps[2]]
        pad = [p - tap.start for p, tap in zip(padding, taps)]
        if self.kernel_size[0] == 1:
            frames = x.transpose(1, 2).flatten(0, 1)
            y = F.conv2d(frames, weight[:, :, 0], self.bias, stride[1:], pad[1:], 1, self.groups)
            return y.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
        y = F.conv2d(x.flatten(3), weight[..., 0], self.bias, (stride[0], 1), (pad[0], 0), 1, self.groups)
        return y.unflatten(3, x.shape[3:])

    def _flat(self, padding: tuple[int, ...]) -> bool:
        """Whether a 2-D convolution does the same."""
        kernel = self.kernel_size
        return ((kernel[0] == 1 or kernel[1:] == (1, 1)) and all(k > 1 or p == 0 for k, p in zip(kernel, padding))
                and self.dilation == (1, 1, 1) and self.padding_mode == "zeros")

    def _whole(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return self._conv_forward(x.float(), self.weight.float(), bias).to(x.dtype)


def _taps(size: int, kernel: int, stride: int, padding: int) -> slice:
    """The taps of one axis of a kernel that see the clip at all; with the padding less by ``start``, the rest can go.

    Tap ``i`` of output ``o`` reads position ``o * stride - padding + i`` of ``0 .. size - 1``.
    """
    last = (size + 2 * padding - kernel) // stride
    if last < 0:  # the clip is too small for the kernel: conv2d says so
        return slice(0, kernel)
    return slice(max(0, padding - last * stride), min(kernel, padding + size))
