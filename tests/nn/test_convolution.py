"""Conv3d by 2-D convolutions: the numbers of conv3d, right also in bf16, and without copies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cuemark.nn.convolution import Conv3d

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}

# kernel, padding, and whether it runs as conv2d
KERNELS = [
    ((1, 1, 1), (0, 0, 0), True),
    ((1, 3, 3), (0, 1, 1), True),
    ((1, 3, 3), (0, 0, 0), True),
    ((1, 3, 2), (0, 0, 1), True),
    ((1, 1, 3), (0, 0, 2), True),
    ((1, 7, 7), (0, 3, 3), True),
    ((3, 1, 1), (1, 0, 0), True),
    ((3, 1, 1), (0, 0, 0), True),
    ((2, 1, 1), (1, 0, 0), True),
    ((5, 1, 1), (2, 0, 0), True),
    ((1, 3, 3), (1, 1, 1), False),
    ((3, 1, 1), (1, 1, 0), False),
    ((1, 1, 1), (0, 1, 0), False),
    ((3, 3, 3), (1, 1, 1), False),
    ((3, 1, 3), (1, 0, 1), False),
]

FITTING = [(k, p) for k, p, _ in KERNELS if all(2 * b >= a - 1 for a, b in zip(k, p))]  # a clip of 1 x 1 x 1 will do


def gradients(y: Tensor, grad: Tensor, *of: Tensor) -> list[Tensor]:
    """The output and what its gradient is to each of ``of``, in float64."""
    return [t.detach().double() for t in (y, *torch.autograd.grad(y, of, grad.to(y.dtype)))]


def error(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


def check(conv: Conv3d, x: Tensor) -> None:
    """Output and all gradients are those of torch's conv3d in float64 (which no vendor's kernel computes)."""
    assert conv.bias is not None
    x = x.detach().requires_grad_()
    y = conv(x)
    exact = [t.detach().double().requires_grad_() for t in (x, conv.weight, conv.bias)]
    truth = F.conv3d(exact[0], exact[1], exact[2], conv.stride, conv.padding, conv.dilation, conv.groups)
    assert y.shape == truth.shape
    grad = torch.randn(y.shape)
    found = gradients(y, grad, x, conv.weight, conv.bias)
    for got, want in zip(found, gradients(truth, grad, *exact)):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("stride", [1, 2, (2, 1, 1), (1, 2, 2), (3, 1, 2)])
@pytest.mark.parametrize(("kernel", "padding", "flat"), KERNELS)
def test_equals_conv3d(kernel, padding, flat, stride, layout):
    torch.manual_seed(0)
    conv = Conv3d(3, 4, kernel, stride, padding)
    assert conv._flat(padding) == flat
    check(conv, torch.randn(2, 3, 5, 8, 7).contiguous(memory_format=FORMATS[layout]))


@pytest.mark.parametrize("stride", [1, 2, (1, 2, 2)])
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 1, 1), (2, 1, 3), (1, 2, 1), (3, 2, 2)])
@pytest.mark.parametrize(("kernel", "padding"), FITTING)
def test_equals_conv3d_where_the_kernel_is_larger_than_the_clip(kernel, padding, size, stride):
    torch.manual_seed(0)
    check(Conv3d(3, 4, kernel, stride, padding), torch.randn(2, 3, *size))


@pytest.mark.parametrize("kernel", [(1, 3, 3), (3, 1, 1), (3, 3, 3)])
def test_groups_and_dilation(kernel):
    torch.manual_seed(0)
    padding = tuple(k // 2 for k in kernel)
    check(Conv3d(4, 6, kernel, padding=padding, groups=2), torch.randn(2, 4, 4, 5, 6))
    check(Conv3d(4, 6, kernel, padding=padding, dilation=2), torch.randn(2, 4, 5, 6, 7))


@pytest.mark.parametrize("options", [{"padding": "same"}, {"padding": (0, 1, 1), "padding_mode": "circular"}])
def test_other_paddings_are_torch_s(options):
    torch.manual_seed(0)
    ours, theirs = Conv3d(3, 4, (1, 3, 3), **options), nn.Conv3d(3, 4, (1, 3, 3), **options)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 4, 5, 6)
    torch.testing.assert_close(ours(x), theirs(x))


def test_a_clip_too_small_for_the_kernel_is_refused_as_by_torch():
    for kernel in ((1, 3, 3), (3, 1, 1)):
        with pytest.raises(RuntimeError, match="Kernel size"):
            Conv3d(3, 4, kernel)(torch.randn(1, 3, 2, 2, 2))


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize(
    ("shape", "planes", "kernel", "stride"),
    [
        ((48, 144, 2, 8, 8), 64, (3, 1, 1), 1),  # where torch's conv3d fails
        ((48, 230, 2, 3, 3), 128, (3, 1, 1), 1),
        ((48, 16, 2, 1, 1), 16, (1, 3, 3), (1, 2, 2)),  # where torch's conv2d fails
        ((48, 64, 2, 8, 8), 144, (1, 3, 3), (1, 2, 2)),
        ((48, 64, 4, 8, 8), 128, (1, 1, 1), 2),
        ((4, 32, 2, 8, 8), 32, (3, 3, 3), 1),
    ],
    ids=str,
)
def test_bf16_gradients_are_right(shape, planes, kernel, stride, layout):
    """Both factors and the result are each rounded to bf16, to within 2**-8 of themselves; and partial sums, where the
    processor has no instruction that adds such products in float32. (Garbage is wrong by 1 and more.)"""
    torch.manual_seed(0)
    roundings = 3 if torch.cpu._is_avx512_bf16_supported() else 4
    conv = Conv3d(shape[1], planes, kernel, stride, tuple(k // 2 for k in kernel), bias=False)
    x = torch.randn(shape).contiguous(memory_format=FORMATS[layout]).requires_grad_()
    y = F.conv3d(x, conv.weight, None, conv.stride, conv.padding)
    grad = torch.randn_like(y)
    truth = gradients(y, grad, x, conv.weight)
    for _ in range(20):  # garbage is what lies in memory: it differs from call to call
        torch.full((int(torch.randint(1, 100_000, ())),), 1e30)
        with torch.autocast("cpu", torch.bfloat16):
            y = conv(x)
        for got, want in zip(gradients(y, grad, x, conv.weight), truth):
            assert error(got, want) < roundings * 2**-8  # NaN and infinity fail too


def test_bf16_3d_kernels_run_in_float32():
    torch.manual_seed(0)
    conv, x = Conv3d(8, 8, 3, padding=1, bias=False), torch.randn(2, 8, 2, 4, 4)
    truth = F.conv3d(x.double(), conv.weight.double(), padding=1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
        assert y.dtype == torch.float32
        assert error(y.double(), truth) < 1e-6  # rounding a factor to bf16 alone would give 1e-3
        assert conv(x.bfloat16()).dtype == torch.bfloat16
    assert conv.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_same_parameters_as_torch():
    torch.manual_seed(0)
    ours = Conv3d(3, 4, (1, 3, 3), stride=2, padding=(0, 1, 1), bias=False)
    torch.manual_seed(0)
    theirs = nn.Conv3d(3, 4, (1, 3, 3), stride=2, padding=(0, 1, 1), bias=False)
    assert list(ours.state_dict()) == list(theirs.state_dict()) == ["weight"]
    assert torch.equal(ours.weight, theirs.weight)
    assert ours.weight.shape == (4, 3, 1, 3, 3)


@pytest.mark.parametrize(("kernel", "padding"), [(k, p) for k, p, flat in KERNELS if flat])
def test_channels_last_clips_are_not_copied(kernel, padding):
    torch.manual_seed(0)
    conv = Conv3d(16, 16, kernel, padding=padding, bias=False)
    x = torch.randn(2, 16, 5, 8, 8).contiguous(memory_format=torch.channels_last_3d)
    y, copied = copies(conv, x)
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    assert copied == []
    assert copies(conv, x.contiguous())[1] == [x.numel()]  # the ruler works: another format is copied, once


def copies(module: nn.Module, x: Tensor) -> tuple[Tensor, list[int]]:
    """What the module gives, and the sizes of the activations that were copied on the way."""
    with torch.no_grad(), torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True
    ) as profile:
        y = module(x)
    weights = {tuple(p.shape) for p in module.parameters()}
    sizes = [torch.Size(e.input_shapes[0]) for e in profile.events() if e.name == "aten::copy_"]
    return y, [s.numel() for s in sizes if s[:2] not in {w[:2] for w in weights}]
