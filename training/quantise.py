"""Rounding to the formats of `videre quantize`, simulated: for evaluation, and for training steps that feel it.

Quantised are the language model's projections, as there; docs/quantize.md describes the formats. `Formats` rounds a
copy for evaluation with static scales; `Rounded` rounds weights and inputs during a training step, gradients straight
through.
"""
import re

import torch

MODULES = re.compile(r"language_model\.backbone\.layers\.\d+\.mixer\.(in|out|q|k|v|o|up|down)_proj$")
MIDDLES = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)


def projections(net):
    return {name: module for name, module in net.named_modules() if MODULES.match(name)}


def e4m3(x):
    return x.clamp(-448, 448).to(torch.float8_e4m3fn).to(x.dtype)


def e2m1(x):
    """The nearest of 0, 0.5, 1, 1.5, 2, 3, 4 and 6, with sign; ties to the even code."""
    m = x.abs().clamp(max=6.0)
    step = torch.where(m < 2.0, 0.5, torch.where(m < 4.0, 1.0, 2.0))
    return torch.copysign((m / step).round() * step, x)


def short(x):
    """Three bits of mantissa, any exponent: a block's scale, whatever the tensor's."""
    return ((x.view(torch.int32) + (1 << 19)) & ~0xFFFFF).view(torch.float32)


def fp8(x, scale):
    return e4m3(x / scale) * scale


def nvfp4(x, scale):
    """Blocks of 16 columns; `scale` is the tensor's."""
    v = x.float().unflatten(-1, (-1, 16))
    block = e4m3(v.abs().amax(-1, keepdim=True) / (6 * scale)) * scale
    return torch.where(block > 0, e2m1(v / block.clamp(min=1e-30)) * block, 0.0).flatten(-2)


def nvfp4_loose(x):
    """The same without a scale of the tensor's."""
    v = x.float().unflatten(-1, (-1, 16))
    block = short(v.abs().amax(-1, keepdim=True) / 6).clamp(min=1e-30)
    return (e2m1(v / block) * block).flatten(-2)


class Formats:
    """A model whose projections can be switched between formats: "bf16", "fp8", "nvfp4" (weights) and "nvfp4-w4a4"."""

    def __init__(self, net):
        self.parts = projections(net)
        self.plain = {n: m.weight.data for n, m in self.parts.items()}
        self.largest = {n: 0.0 for n in self.parts}
        self.format = "bf16"
        for name, module in self.parts.items():
            module.register_forward_pre_hook(lambda m, args, name=name: self.enter(name, args))

    def enter(self, name, args):
        x = args[0]
        if self.format == "calibrate":
            self.largest[name] = max(self.largest[name], x.abs().max().item())
        elif self.format == "fp8":
            return (fp8(x.float(), self.largest[name] / 448).to(x.dtype), *args[1:])
        elif self.format == "nvfp4-w4a4":
            return (nvfp4(x, self.largest[name] / 2688).to(x.dtype), *args[1:])
        return None

    def use(self, format):
        self.format = format
        for name, module in self.parts.items():
            w = self.plain[name]
            most = w.float().abs().max()
            rounded = fp8(w.float(), most / 448) if format == "fp8" else nvfp4(w, most / 2688) if format.startswith("nvfp4") else w
            module.weight.data = rounded.to(w.dtype)


class RoundedLinear(torch.nn.Linear):
    """Rounds its input when `switch` is 1; the gradient passes as if it did not."""

    def forward(self, x):
        y = x + (self.switch * (nvfp4_loose(x.detach()) - x.detach().float())).to(x.dtype)
        return torch.nn.functional.linear(y, self.weight)


class Rounded:
    """Training steps with rounded weights and inputs. The switch is a tensor, so that compiled blocks need not know."""

    def __init__(self, net):
        self.parts = list(projections(net).values())
        self.exact, self.on = [], False
        self.switch = torch.zeros((), device=self.parts[0].weight.device)
        for module in self.parts:
            module.__class__ = RoundedLinear
            module.register_buffer("switch", self.switch, persistent=False)

    @torch.no_grad()
    def begin(self, on):
        self.on = on
        self.switch.fill_(float(on))
        if on:
            self.exact = [m.weight.detach().clone() for m in self.parts]
            for m in self.parts:
                m.weight.copy_(nvfp4(m.weight, m.weight.abs().max() / 2688))

    @torch.no_grad()
    def end(self):
        if self.on:
            torch._foreach_copy_([m.weight for m in self.parts], self.exact)
            self.exact, self.on = [], False
            self.switch.fill_(0.0)
